//! `clear_caches` on Redis, memcached and the cache of an nginx, with the targets of the example of the configuration.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::servers::memcached::Memcached;
use crate::servers::nginx::Nginx;
use crate::servers::redis::Redis;
use crate::subject::Subject;

const EXAMPLE: &str = include_str!("../../config/examples/caches.toml");

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    let world = World {
        redis: Redis::start(),
        memcached: Memcached::start(),
        nginx: Nginx::start(),
        outside: tempfile::tempdir().expect("a directory"),
        starts: Mutex::new(0),
        flushed_before: Mutex::new((0, 0)),
    };
    for what in [What::Database, What::Pattern, What::Memcached, What::Files, What::All] {
        try_it(&Clear { world: &world, what });
    }
}

/// The caches, each with something in it.
struct World {
    redis: Redis,
    memcached: Memcached,
    nginx: Nginx,
    /// What links in the cache lead to.
    outside: tempfile::TempDir,
    /// How often memcached was started again.
    starts: Mutex<u32>,
    /// Starts of memcached, and its flushes, when the world was made ready.
    flushed_before: Mutex<(u32, u64)>,
}

impl World {
    fn cache(&self) -> PathBuf {
        self.nginx.path("cache")
    }

    fn fill_redis(&self) {
        for (db, key) in [(3, "a"), (3, "b"), (3, "c"), (0, "shop:1"), (0, "shop:2"), (0, "forum:1")] {
            self.redis.ask(db, &["set", key, "x"]);
        }
        self.redis.ask(0, &["config", "resetstat"]);
    }

    fn fill_memcached(&self) {
        for key in ["a", "b", "c"] {
            assert_eq!(self.memcached.ask(&format!("set {key} 0 0 1\r\nx")), ["STORED"]);
        }
        let starts = *self.starts.lock().expect("a number");
        *self.flushed_before.lock().expect("numbers") = (starts, self.memcached.stat("cmd_flush"));
    }

    /// Pages of nginx, and what somebody who may write there could plant.
    fn fill_files(&self) {
        let cache = self.cache();
        fs::write(self.outside.path().join("precious"), "x").expect("a file");
        for page in ["/1", "/2", "/3"] {
            self.nginx.get("cached.sock", page);
            assert!(self.nginx.get("cached.sock", page).1.contains("X-Cache: HIT"), "nginx does not cache");
        }
        fs::create_dir_all(cache.join("deep/er/and/deeper")).expect("directories");
        fs::write(cache.join("deep/er/and/deeper/file"), "x").expect("a file");
        fs::write(cache.join("deep/er/file"), "x").expect("a file");
        for (number, place) in ["planted", "deep/planted"].iter().enumerate() {
            let _ = fs::remove_file(cache.join(place));
            symlink(self.outside.path(), cache.join(place)).expect("a link");
            let file = cache.join(format!("{place}-file"));
            let _ = fs::remove_file(&file);
            symlink(self.outside.path().join("precious"), file)
                .unwrap_or_else(|error| panic!("{number}: {error}"));
        }
    }

    fn assert_outside_is_whole(&self) {
        assert_eq!(fs::read_to_string(self.outside.path().join("precious")).ok().as_deref(), Some("x"));
    }

    fn is_down(&self) -> bool {
        !self.cache().exists()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// A database of Redis.
    Database,
    /// Keys of it.
    Pattern,
    Memcached,
    Files,
    /// Everything that is configured, at once.
    All,
}

impl What {
    fn is(self, other: Self) -> bool {
        self == other || self == Self::All
    }
}

struct Clear<'a> {
    world: &'a World,
    what: What,
}

impl Clear<'_> {
    fn assert_cleared(&self, what: What, listed: &Value, is_first: bool) {
        let World { redis, memcached, nginx, .. } = self.world;
        assert_eq!(listed["ok"], true, "{listed}");
        match what {
            What::Database => {
                assert_eq!(redis.ask(3, &["dbsize"]), "0");
                assert_eq!((redis.calls("flushdb"), redis.calls("flushall")), (1, 0), "once");
                assert_eq!(redis.ask(0, &["exists", "forum:1"]), "1", "another database");
                assert_eq!((&listed["entries_before"], &listed["entries_after"]), (&json!(3), &json!(0)));
            }
            What::Pattern => {
                assert_eq!(redis.ask(0, &["keys", "*"]), "forum:1");
                assert_eq!(redis.calls("unlink"), 1, "once");
                assert_eq!(listed["entries_before"], 2);
            }
            What::Memcached => {
                for key in ["a", "b", "c"] {
                    assert_eq!(memcached.ask(&format!("get {key}")), ["END"]);
                }
                let (starts, before) = *self.world.flushed_before.lock().expect("numbers");
                if starts == *self.world.starts.lock().expect("a number") {
                    assert_eq!(memcached.stat("cmd_flush"), before + 1, "once");
                } else {
                    assert_eq!(memcached.stat("cmd_flush"), 0, "the crash has emptied it");
                }
                assert_eq!(listed["entries_before"], 3);
            }
            What::Files => {
                self.world.assert_outside_is_whole();
                let left: Vec<_> = fs::read_dir(self.world.cache()).expect("the cache").flatten().collect();
                assert!(left.is_empty(), "{left:?}");
                assert!(nginx.get("cached.sock", "/1").1.contains("X-Cache: MISS"));
                if is_first {
                    assert_eq!(listed["entries_before"], 9, "{listed}");
                    assert!(listed["bytes_freed"].as_u64() > Some(0), "{listed}");
                }
            }
            What::All => unreachable!("it is several"),
        }
    }

    fn assert_filled(&self, what: What) {
        let World { redis, memcached, .. } = self.world;
        match what {
            What::Database => assert_eq!(redis.ask(3, &["dbsize"]), "3"),
            What::Pattern => assert_eq!(redis.ask(0, &["dbsize"]), "3"),
            What::Memcached => {
                let (starts, before) = *self.world.flushed_before.lock().expect("numbers");
                if starts == *self.world.starts.lock().expect("a number") {
                    assert_eq!(memcached.stat("cmd_flush"), before);
                    assert_eq!(memcached.stat("curr_items"), 3);
                } else {
                    assert_eq!(memcached.stat("cmd_flush"), 0);
                }
            }
            What::Files => {
                self.world.assert_outside_is_whole();
                assert!(self.world.cache().join("deep/er/and/deeper/file").exists());
                assert!(self.world.nginx.get("cached.sock", "/1").1.contains("X-Cache: HIT"));
            }
            What::All => unreachable!("it is several"),
        }
    }
}

/// The kinds, in the order of the result, with the names of their targets.
const KINDS: [(What, &str); 4] = [
    (What::Database, "redis-cache"),
    (What::Pattern, "redis-shop"),
    (What::Memcached, "memcached"),
    (What::Files, "pages"),
];

impl Subject for Clear<'_> {
    fn name(&self) -> String {
        let of = match self.what {
            What::Database => "redis",
            What::Pattern => "redis, pattern",
            What::Memcached => "memcached",
            What::Files => "files",
            What::All => "all",
        };
        format!("clear_caches ({of})")
    }

    fn action(&self) -> &'static str {
        "clear_caches"
    }

    fn tables(&self) -> String {
        let start = EXAMPLE.find("[targets.redis-cache]").expect("targets");
        let end = EXAMPLE.find("[targets.site]").expect("targets");
        let shown = |path: PathBuf| path.display().to_string();
        EXAMPLE[start..end]
            .replace("/run/redis/redis-server.sock", &shown(self.world.redis.socket()))
            .replace("/etc/actiond/redis-password", &shown(self.world.redis.password_file()))
            .replace("/run/memcached/memcached.sock", &shown(self.world.memcached.socket()))
            .replace("/var/cache/nginx/pages", &shown(self.world.cache()))
    }

    fn prepare(&self) -> Value {
        self.world.fill_redis();
        if self.what.is(What::Memcached) {
            self.world.fill_memcached();
        }
        if self.what.is(What::Files) {
            self.world.fill_files();
        }
        match self.what {
            What::Database => json!({ "only": ["redis"], "target": "redis-cache" }),
            What::Pattern => json!({ "only": ["redis"], "target": "redis-shop" }),
            What::Memcached => json!({ "only": ["memcached"] }),
            What::Files => json!({ "only": ["files"] }),
            What::All => json!({ "only": [] }),
        }
    }

    fn assert_done(&self, _metadata: &Value, action: &Value) {
        let caches = action["finished_result"]["caches"].as_array().expect("caches");
        let is_first = action["attempt"] == 1;
        let kinds: Vec<_> = KINDS.iter().filter(|(what, _)| self.what.is(*what)).collect();
        assert_eq!(caches.len(), kinds.len(), "{action}");
        for (what, name) in kinds {
            let listed = caches.iter().find(|cache| cache["name"] == *name).expect("the cache");
            self.assert_cleared(*what, listed, is_first);
        }
    }

    fn assert_undone(&self, _metadata: &Value, action: &Value) {
        if self.what == What::All && action["state"] == "failed" {
            // One of them was down; the others are cleared in spite of it.
            let caches = &action["finished_result"]["error"]["caches"];
            let oks: Vec<&Value> =
                caches.as_array().expect("caches").iter().map(|cache| &cache["ok"]).collect();
            assert_eq!(oks, [true, true, true, false], "{action}");
            self.assert_filled(What::Files);
            return self.assert_cleared(What::Database, &caches[0], true);
        }
        for (what, _) in KINDS.iter().filter(|(what, _)| self.what.is(*what)) {
            self.assert_filled(*what);
        }
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        vec![
            (json!({ "only": "redis" }), "sequence"),
            (json!({ "only": ["varnish"] }), "varnish"),
            (json!({ "only": ["redis"], "target": "memcached" }), "redis"),
            (json!({ "path": "/etc" }), "path"),
            (json!({ "pattern": "*" }), "pattern"),
        ]
    }

    fn secrets(&self, _action: &Value) -> Vec<(String, Option<PathBuf>)> {
        vec![("canary-redis".to_owned(), None)]
    }

    fn take_down(&self) {
        match self.what {
            What::Database | What::Pattern => self.world.redis.take_down(),
            What::Memcached => self.world.memcached.take_down(),
            What::Files | What::All => {
                fs::rename(self.world.cache(), self.world.nginx.path("away")).expect("the cache");
            }
        }
    }

    fn bring_up(&self) {
        match self.what {
            What::Database | What::Pattern => self.world.redis.bring_up(),
            What::Memcached => {
                self.world.memcached.bring_up();
                *self.world.starts.lock().expect("a number") += 1;
            }
            What::Files | What::All if self.world.is_down() => {
                fs::rename(self.world.nginx.path("away"), self.world.cache()).expect("the cache");
            }
            What::Files | What::All => {}
        }
    }

    fn keeps_effect(&self) -> bool {
        true
    }
}
