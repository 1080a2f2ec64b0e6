//! Containers and the services of Compose projects.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::servers::engine::{Brand, Engine};
use crate::subject::Subject;

/// Says that it was started, and goes on until it is told to end.
const WORK: &str = "echo started; trap 'exit 0' TERM; while :; do sleep 60 & wait $!; done";
const STARTED: &str = "started";

/// Gives each subject of this family to `try_it`.
pub fn docker(try_it: &mut dyn FnMut(&dyn Subject)) {
    each(Brand::Docker, &[What::Container, What::Pause, What::Rolling, What::Parallel, What::Resume], try_it);
}

/// The engines differ in what they answer to these two.
pub fn podman(try_it: &mut dyn FnMut(&dyn Subject)) {
    each(Brand::Podman, &[What::Container, What::Pause], try_it);
}

fn each(brand: Brand, tried: &[What], try_it: &mut dyn FnMut(&dyn Subject)) {
    let engine = Engine::start(brand);
    let neighbours = neighbours(&engine);
    for what in tried {
        try_it(&Containers {
            engine: &engine,
            neighbours: &neighbours,
            what: *what,
            world: Mutex::new(World::default()),
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Container,
    Rolling,
    Parallel,
    Pause,
    Resume,
}

struct Containers<'a> {
    engine: &'a Engine,
    /// Containers that nothing may touch.
    neighbours: &'a [String],
    what: What,
    world: Mutex<World>,
}

/// What was made ready last.
#[derive(Default)]
struct World {
    count: u32,
    /// Those that the action is for.
    running: Vec<Seen>,
    /// The others, and the neighbours.
    untouched: Vec<Seen>,
    /// Actions whose effects were counted.
    done: BTreeSet<u64>,
}

/// A container as it was.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    id: String,
    status: String,
    started_at: String,
}

/// Containers of other services and projects, and such as make an action fail.
fn neighbours(engine: &Engine) -> Vec<String> {
    let made = |name: &str, project: &str, service: &str, shell: &str, more: Value| {
        engine.create(name, project, service, shell, &more)
    };
    let none = || json!({});
    let mut untouched = vec![
        made("shop-db-1", "shop", "db", WORK, none()),
        made("foreign-api-1", "foreign", "api", WORK, none()),
        made("foreign-web-1", "foreign", "web", WORK, none()),
    ];
    let check =
        json!({ "Test": ["CMD", "false"], "Interval": 100_000_000, "Timeout": 1_000_000_000, "Retries": 1 });
    let sick = json!({ "Healthcheck": check });
    let first = made("shop-sick-1", "shop", "sick", WORK, sick.clone());
    untouched.push(made("shop-sick-2", "shop", "sick", WORK, sick));
    for id in untouched.iter().chain([&first]) {
        engine.command(id, "start");
    }
    untouched.push(made("shop-twice-1", "shop", "twice", WORK, none()));
    untouched.push(made("blog-twice-1", "blog", "twice", WORK, none()));
    made("shop-brief-1", "shop", "brief", "exit 3", none());
    untouched
}

impl Containers<'_> {
    fn world(&self) -> MutexGuard<'_, World> {
        // A case that failed left it as it was.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, id: &str) -> Seen {
        let (status, started_at) = self.engine.look(id);
        Seen { id: id.to_owned(), status, started_at }
    }

    fn is_restart(&self) -> bool {
        !matches!(self.what, What::Pause | What::Resume)
    }

    fn assert_untouched(&self, world: &World) {
        for was in &world.untouched {
            assert_eq!(self.see(&was.id), *was, "it was none of its business");
        }
    }
}

impl Subject for Containers<'_> {
    fn name(&self) -> String {
        let brand = match self.engine.brand {
            Brand::Docker => "docker",
            Brand::Podman => "podman",
        };
        match self.what {
            What::Rolling => format!("service_restart (rolling, {brand})"),
            What::Parallel => format!("service_restart (parallel, {brand})"),
            _ => format!("{} ({brand})", self.action()),
        }
    }

    fn action(&self) -> &'static str {
        match self.what {
            What::Container => "container_restart",
            What::Rolling | What::Parallel => "service_restart",
            What::Pause => "service_pause",
            What::Resume => "service_resume",
        }
    }

    fn tables(&self) -> String {
        let example = include_str!("../../config/examples/containers.toml");
        let mut example: toml::Table = example.parse().expect("the example");
        example.remove("handler");
        let socket = self.engine.socket().to_str().expect("a path").to_owned();
        example["targets"]["containers"]["socket"] = socket.into();
        example.to_string()
    }

    fn prepare(&self) -> Value {
        let mut world = self.world();
        for was in std::mem::take(&mut world.running) {
            self.engine.remove(&was.id);
        }
        world.untouched.retain(|was| {
            let is_neighbour = self.neighbours.contains(&was.id);
            if !is_neighbour {
                self.engine.remove(&was.id);
            }
            is_neighbour
        });
        world.done.clear();
        world.count += 1;
        let kind = match self.what {
            What::Container => "one",
            What::Rolling => "web",
            What::Parallel => "worker",
            What::Pause => "mailer",
            What::Resume => "search",
        };
        let service = format!("{kind}_{}", world.count);
        let made = |number: u32| {
            self.engine.create(&format!("shop-{service}-{number}"), "shop", &service, WORK, &json!({}))
        };
        let ids: Vec<String> = match self.what {
            What::Container => vec![made(1)],
            _ => vec![made(1), made(2)],
        };
        for id in &ids {
            self.engine.command(id, "start");
        }
        if self.what == What::Resume || self.what == What::Rolling {
            // Also in a restart of what is paused in part.
            let paused = if self.what == What::Resume { ids.as_slice() } else { &ids[..1] };
            for id in paused {
                self.engine.command(id, "pause");
            }
        }
        let stopped = (self.what != What::Container).then(|| made(3));
        world.running = ids.iter().map(|id| self.see(id)).collect();
        world.untouched = self.neighbours.iter().chain(&stopped).map(|id| self.see(id)).collect();
        match self.what {
            What::Container if world.count.is_multiple_of(2) => json!({ "container": ids[0][..12] }),
            What::Container => json!({ "container": format!("shop-{service}-1") }),
            What::Rolling => json!({ "service_name": service, "settle_s": 0 }),
            What::Parallel => {
                json!({ "service_name": service, "project": "shop", "strategy": "parallel", "settle_s": 0 })
            }
            What::Pause | What::Resume => json!({ "service_name": service }),
        }
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        let mut world = self.world();
        world.done.insert(action["id"].as_u64().expect("an id"));
        let told = action["finished_result"]["containers"].as_array().expect("containers");
        for was in &world.running {
            let now = self.see(&was.id);
            let status = if self.what == What::Pause { "paused" } else { "running" };
            assert_eq!(now.status, status, "{metadata} {action}");
            let told = told.iter().find(|told| told["id"] == was.id.as_str()).expect("it");
            assert_eq!(told["state"], status, "{action}");
            let starts = self.engine.count(&was.id, STARTED);
            if self.is_restart() {
                assert_eq!(starts, 1 + world.done.len(), "{metadata} {action}");
                assert_ne!(now.started_at, was.started_at, "{action}");
                assert_eq!(told["started_at"], now.started_at.as_str(), "{action}");
                assert_ne!(told["old_pid"], told["new_pid"], "{action}");
            } else {
                assert_eq!((starts, &now.started_at), (1, &was.started_at), "{action}");
            }
        }
        self.assert_untouched(&world);
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        let world = self.world();
        for was in &world.running {
            assert_eq!(self.see(&was.id), *was, "{metadata} {action}");
        }
        self.assert_untouched(&world);
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn repeats(&self) -> bool {
        self.is_restart()
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        if self.what == What::Container {
            return vec![
                (json!({}), "container"),
                (json!({ "container": "" }), "empty"),
                (json!({ "container": "../json" }), "container"),
                (json!({ "container": "a?all=1" }), "container"),
                (json!({ "container": "a".repeat(256) }), "255"),
                (json!({ "container": "a", "stop_timeout_s": 3601 }), "stop_timeout_s"),
                (json!({ "container": "a", "health_timeout_s": 0 }), "health_timeout_s"),
            ];
        }
        let mut all = vec![
            (json!({}), "service_name"),
            (json!({ "service_name": "" }), "empty"),
            (json!({ "service_name": "a=b" }), "service_name"),
            (json!({ "service_name": "a", "project": "foreign" }), "foreign"),
            (json!({ "service_name": "a", "project": "a b" }), "project"),
        ];
        if self.is_restart() {
            all.push((json!({ "service_name": "a", "strategy": "some" }), "some"));
            all.push((json!({ "service_name": "a", "batch_size": 0 }), "batch_size"));
            all.push((json!({ "service_name": "a", "batch_size": 61 }), "batch_size"));
        }
        all
    }

    fn fails(&self) -> Vec<(Value, &'static str)> {
        // Podman's checks of health need systemd.
        let has_health = self.engine.brand == Brand::Docker;
        if self.what == What::Container {
            // Not a neighbour: it does not outlive a crash of the engine.
            let host = json!({ "NetworkMode": "none", "AutoRemove": true });
            let fleeting = self.engine.create("", "shop", "fleeting", WORK, &json!({ "HostConfig": host }));
            self.engine.command(&fleeting, "start");
            let mut all = vec![
                (json!({ "container": "nothing" }), "not_found"),
                (json!({ "container": "foreign-api-1" }), "not_allowed"),
                (json!({ "container": "shop-brief-1" }), "stopped"),
                (json!({ "container": fleeting }), "auto_removed"),
            ];
            if has_health {
                all.push((json!({ "container": "shop-sick-1" }), "unhealthy"));
            }
            return all;
        }
        let mut all = vec![
            (json!({ "service_name": "nothing" }), "not_found"),
            (json!({ "service_name": "api" }), "not_allowed"),
            (json!({ "service_name": "twice" }), "ambiguous"),
            (json!({ "service_name": "brief" }), "not_running"),
        ];
        if self.is_restart() {
            all.push((json!({ "service_name": "brief", "include_stopped": true }), "stopped"));
        }
        if self.what == What::Rolling && has_health {
            // The second of its containers is a neighbour: it is not reached.
            all.push((json!({ "service_name": "sick" }), "unhealthy"));
        }
        all
    }

    fn take_down(&self) {
        self.engine.take_down();
    }

    fn bring_up(&self) {
        self.engine.bring_up();
    }

    fn keeps_effect(&self) -> bool {
        self.is_restart()
    }
}
