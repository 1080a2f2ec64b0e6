//! `disable_replication_slave_db` on MariaDB: one step, that may be done again.
//!
//! | mode | does |
//! | --- | --- |
//! | detach | STOP SLAVE; RESET SLAVE ALL: host, user and password of its primary are forgotten, its position is not |
//! | stop | STOP SLAVE |
//! | pause | STOP SLAVE SQL_THREAD |
//!
//! `read_only` stays as it is. To follow again takes the password, which a server does not tell: a detached one can do so if
//! the primary's target has it (`replication`). One that follows by files and not by transaction ids would not know from
//! where: it is not detached.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Ends;
use super::super::disable::{Disabled, Mode, Params, Previous};
use super::{Connection, Follows, Mariadb, Server, password};
use crate::handlers::builtin::Failure;
use crate::handlers::builtin::kind::Done;
use crate::handlers::builtin::run::{Found, Run};

const DISABLE: &str = "disable";

/// What was there before.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Before {
    previous: Previous,
    /// `Slave_Pos` or `Current_Pos`.
    using_gtid: String,
    /// What CHANGE MASTER has to say beside the connection.
    more: Vec<String>,
    io: bool,
    sql: bool,
}

pub(in super::super) fn check(params: &Params, _ends: &Ends<'_>) -> Result<(), String> {
    if params.drop_slot.is_some() {
        return Err("drop_slot: a primary of MariaDB has no slots".to_owned());
    }
    Ok(())
}

pub(in super::super) async fn plan(
    params: &Params,
    run: &Run,
    ends: &Ends<'_>,
) -> Result<Vec<Value>, Failure> {
    let replica = Server::open(run, ends.replica).await?;
    let follows = replica.follows().await?;
    if is_so(params.mode, follows.as_ref()) {
        return Ok(Vec::new());
    }
    if let Some(follows) = &follows {
        refuse(params.mode, follows, &replica)?;
    }
    Ok(vec![json!({
        "step": DISABLE, "target": replica.name(), "statement": statements(params.mode).join("; "),
    })])
}

pub(in super::super) async fn execute(params: &Params, run: &Run, ends: &Ends<'_>) -> Result<Done, Failure> {
    let replica = Server::open(run, ends.replica).await?;
    if !run.is_begun(DISABLE) {
        let follows = replica.follows().await?;
        if is_so(params.mode, follows.as_ref()) {
            let previous = match &follows {
                Some(follows) => previous(follows, &replica).await?,
                None => Previous { gtid: Some(replica.applied().await?), ..Previous::default() },
            };
            let told = format!("{} does not follow its primary already", replica.name());
            return Ok(Done::new(told, false, &disabled(params, previous, &replica).await?));
        }
    }
    let intent = async || {
        let gone = || Failure::permanent("not_replica", format!("{} follows nobody", replica.name()));
        let follows = replica.follows().await?.ok_or_else(gone)?;
        refuse(params.mode, &follows, &replica)?;
        Ok(Before {
            previous: previous(&follows, &replica).await?,
            using_gtid: follows.text("Using_Gtid").to_owned(),
            more: more(&follows),
            io: follows.wants_io(),
            sql: follows.has_sql(),
        })
    };
    let act = async |before: &Before| {
        for statement in statements(params.mode) {
            replica.execute("end the replication of", statement).await?;
        }
        // Now it stays.
        Ok(Previous { gtid: Some(replica.applied().await?), ..before.previous.clone() })
    };
    let previous = run.step(DISABLE, intent, act, async |_: &Before| Ok(Found::NotDone)).await?;
    if params.mode != Mode::Detach {
        run.warn(format!(
            "{} goes on after a restart, unless its configuration has skip_slave_start",
            replica.name()
        ));
    }
    let disabled = disabled(params, previous, &replica).await?;
    if !disabled.read_only {
        run.warn(format!("{} takes writes: it is not read only, and was not before", replica.name()));
    }
    Ok(Done::new(format!("{} does not follow its primary any more", replica.name()), true, &disabled))
}

pub(in super::super) async fn undo(_params: &Params, run: &Run, ends: &Ends<'_>) -> Result<(), Failure> {
    let Some(trace) = run.trace::<Before, Previous>(DISABLE)? else { return Ok(()) };
    let before = trace.intent;
    let replica = Server::open(run, ends.replica).await?;
    run.repeatable("undo.disable", async || {
        if replica.follows().await?.is_none() {
            attach_again(run, ends, &replica, &before).await?;
        }
        for (thread, ran) in [("IO_THREAD", before.io), ("SQL_THREAD", before.sql)] {
            if ran {
                replica.execute("start the replication of", &format!("START SLAVE {thread}")).await?;
            }
        }
        // Its primary need not answer just now: then the thread tries again by itself.
        let follows = replica.follows().await?;
        follows.and_then(|follows| follows.broken(replica.name())).map_or(Ok(()), Err)
    })
    .await
}

fn statements(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Detach => &["STOP SLAVE", "RESET SLAVE ALL"],
        Mode::Stop => &["STOP SLAVE"],
        Mode::Pause => &["STOP SLAVE SQL_THREAD"],
    }
}

/// Whether there is nothing to do.
fn is_so(mode: Mode, follows: Option<&Follows>) -> bool {
    match (mode, follows) {
        (_, None) => true,
        (Mode::Detach, Some(_)) => false,
        (Mode::Stop, Some(follows)) => !follows.wants_io() && !follows.has_sql(),
        (Mode::Pause, Some(follows)) => !follows.has_sql(),
    }
}

fn refuse(mode: Mode, follows: &Follows, replica: &Server<'_>) -> Result<(), Failure> {
    if mode == Mode::Detach && follows.text("Using_Gtid") == "No" {
        let told = format!(
            "{} follows by the names of files and not by transaction ids: once detached it could not go on",
            replica.name()
        );
        return Err(Failure::permanent("no_gtid", told).with("hint", "mode = \"stop\" stops it"));
    }
    Ok(())
}

async fn previous(follows: &Follows, replica: &Server<'_>) -> Result<Previous, Failure> {
    let text = |column: &str| Some(follows.text(column).to_owned()).filter(|text| !text.is_empty());
    Ok(Previous {
        source_host: text("Master_Host"),
        port: follows.text("Master_Port").parse().ok(),
        user: text("Master_User"),
        gtid: Some(replica.applied().await?),
        ..Previous::default()
    })
}

/// What RESET SLAVE ALL forgets beside the connection, as CHANGE MASTER takes it.
fn more(follows: &Follows) -> Vec<String> {
    use super::literal;
    let mut more = vec![format!("MASTER_CONNECT_RETRY = {}", follows.number("Connect_Retry").unwrap_or(60))];
    for (column, option) in [("SQL_Delay", "MASTER_DELAY")] {
        if let Some(number @ 1..) = follows.number(column) {
            more.push(format!("{option} = {number}"));
        }
    }
    for (column, option) in [
        ("Master_SSL_Allowed", "MASTER_SSL"),
        ("Master_SSL_Verify_Server_Cert", "MASTER_SSL_VERIFY_SERVER_CERT"),
    ] {
        more.push(format!("{option} = {}", u8::from(follows.text(column) == "Yes")));
    }
    for (column, option) in [
        ("Master_SSL_CA_File", "MASTER_SSL_CA"),
        ("Master_SSL_CA_Path", "MASTER_SSL_CAPATH"),
        ("Master_SSL_Cert", "MASTER_SSL_CERT"),
        ("Master_SSL_Cipher", "MASTER_SSL_CIPHER"),
        ("Master_SSL_Key", "MASTER_SSL_KEY"),
        ("Master_SSL_Crl", "MASTER_SSL_CRL"),
        ("Master_SSL_Crlpath", "MASTER_SSL_CRLPATH"),
    ] {
        let text = follows.text(column);
        if !text.is_empty() {
            more.push(format!("{option} = {}", literal(text)));
        }
    }
    for (column, option) in [
        ("Replicate_Ignore_Server_Ids", "IGNORE_SERVER_IDS"),
        ("Replicate_Do_Domain_Ids", "DO_DOMAIN_IDS"),
        ("Replicate_Ignore_Domain_Ids", "IGNORE_DOMAIN_IDS"),
    ] {
        let ids = follows.text(column);
        if !ids.is_empty() && ids.chars().all(|c| c.is_ascii_digit() || ", ".contains(c)) {
            more.push(format!("{option} = ({ids})"));
        }
    }
    more
}

async fn disabled(params: &Params, previous: Previous, replica: &Server<'_>) -> Result<Disabled, Failure> {
    Ok(Disabled {
        mode: params.mode,
        previous,
        slot_dropped: false,
        read_only: replica.is_read_only().await?,
    })
}

/// Undoes RESET SLAVE ALL.
async fn attach_again(
    run: &Run,
    ends: &Ends<'_>,
    replica: &Server<'_>,
    before: &Before,
) -> Result<(), Failure> {
    let unknown = || {
        let told =
            format!("the password with which {} connected is not known: it is of no target", replica.name());
        Failure::permanent("password", told)
    };
    let settings: Mariadb =
        ends.primary.ok_or_else(unknown)?.settings().map_err(|why| Failure::permanent("target", why))?;
    let replication = settings.replication.ok_or_else(unknown)?;
    let previous = &before.previous;
    let (Some(host), Some(port), Some(user)) = (&previous.source_host, previous.port, &previous.user) else {
        return Err(unknown());
    };
    if *user != replication.user {
        return Err(unknown());
    }
    let password = replication.password_file.as_deref().map(|path| password(run, path)).transpose()?;
    let connection = Connection { host, port, user, password };
    let use_gtid = if before.using_gtid == "Current_Pos" { "current_pos" } else { "slave_pos" };
    let statement = format!("{}, {}", connection.statement(use_gtid), before.more.join(", "));
    replica.execute("restore the replication of", &statement).await
}
