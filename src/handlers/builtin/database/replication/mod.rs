//! Replication: a replica becomes the primary, is made anew from its primary, or stops following it.
//!
//! Both ends are targets of the configuration. The replica's target names its primary's (`replica_of`); how replicas connect
//! is a setting of the primary. What an engine does is in a directory of its own.
//!
//! No two actions touch a server at once: each locks both ends ([`Ends::locks`]).

mod disable;
mod mariadb;
mod postgres;
mod promote;
mod resync;

pub(in super::super) use self::disable::DisableReplication;
pub(in super::super) use self::promote::Promote;
pub(in super::super) use self::resync::Resync;
use super::{Engine, Mariadb, Postgresql, target_of};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Around;
use crate::handlers::builtin::run::Run;
use crate::handlers::targets::{Target, Targets};

/// A replica and the target that is its primary.
#[derive(Clone, Copy, Debug)]
struct Ends<'a> {
    engine: Engine,
    replica: &'a Target,
    /// None, if the configuration does not say.
    primary: Option<&'a Target>,
}

impl<'a> Ends<'a> {
    /// Those that are meant, at submission.
    fn asked(
        around: &Around<'a>,
        engine: Option<Engine>,
        server: Option<&'a str>,
        source: Option<&str>,
    ) -> Result<Self, String> {
        Self::of(around.targets, target_of(around, engine, server)?, source)
    }

    /// Those that are meant, when it is carried out.
    fn chosen(
        run: &'a Run,
        engine: Option<Engine>,
        server: Option<&str>,
        source: Option<&str>,
    ) -> Result<Self, Failure> {
        let (replica, _) = super::chosen(run, engine, server)?;
        Self::of(&run.targets, replica, source).map_err(|problem| Failure::permanent("target", problem))
    }

    /// `source` is the primary's target where metadata names it.
    fn of(targets: &'a Targets, replica: &'a Target, source: Option<&str>) -> Result<Self, String> {
        let engine = Engine::of(replica)?;
        let replica_of = match engine {
            Engine::Postgresql => replica.settings::<Postgresql>()?.replica_of,
            Engine::Mariadb => replica.settings::<Mariadb>()?.replica_of,
        };
        let (key, name) = match source {
            Some(source) => ("source".to_owned(), Some(source)),
            None => (format!("targets.{}: replica_of", replica.name), replica_of.as_deref()),
        };
        let Some(name) = name else { return Ok(Self { engine, replica, primary: None }) };
        let primary = targets
            .by_name(name)
            .or_else(|| targets.all().find(|target| target.server.as_deref() == Some(name)))
            .ok_or_else(|| format!("{key}: there is no target {name:?} for this action"))?;
        if primary.engine != replica.engine {
            return Err(format!("{key}: {name:?} is of another engine, {}", primary.engine));
        }
        if primary.name == replica.name {
            return Err(format!("{key}: {name:?} is the replica itself"));
        }
        Ok(Self { engine, replica, primary: Some(primary) })
    }

    /// The primary, where there has to be one.
    fn primary(&self) -> Result<&'a Target, String> {
        let name = &self.replica.name;
        self.primary.ok_or_else(|| format!("the target {name} does not say whose replica it is (replica_of)"))
    }

    /// What no other action may touch meanwhile.
    fn locks(&self) -> Vec<String> {
        let both = [Some(self.replica), self.primary];
        both.into_iter().flatten().map(|target| format!("dbserver:{}", target.name)).collect()
    }
}
