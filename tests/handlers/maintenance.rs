//! `maintenance_mode` on an nginx, with the target of the example of the configuration.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::cases::{Stage, soon, soon_from};
use crate::common::{Daemon, Home, spec, until, with};
use crate::servers::nginx::Nginx;
use crate::subject::Subject;

const EXAMPLE: &str = include_str!("../../config/examples/caches.toml");

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    let nginx = Nginx::start();
    for what in [What::On, What::Until, What::Off] {
        try_it(&Mode { nginx: &nginx, what, reloads: AtomicUsize::new(0) });
    }
    let mode = Mode { nginx: &nginx, what: What::On, reloads: AtomicUsize::new(0) };
    mode.turns_itself_off();
    mode.broken_configuration_is_taken_back();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    On,
    /// On, with an end.
    Until,
    Off,
}

struct Mode<'a> {
    nginx: &'a Nginx,
    what: What,
    /// Reloads before.
    reloads: AtomicUsize,
}

impl Mode<'_> {
    fn link(&self) -> Option<String> {
        fs::read_link(self.nginx.path("actiond/current")).ok().map(|link| link.display().to_string())
    }

    /// As if others had done it: nothing there is marked as made by an action.
    fn set(&self, is_on: bool) {
        let current = self.nginx.path("actiond/current");
        let _ = fs::remove_file(&current);
        let by_hand = self.nginx.path("actiond/by-hand");
        if is_on {
            fs::create_dir_all(&by_hand).expect("a directory");
            fs::write(by_hand.join("server.conf"), "return 503;\n").expect("a file");
            symlink("by-hand", current).expect("a link");
        }
        self.nginx.reload();
        assert_eq!(self.nginx.get("site.sock", "/").0, if is_on { 503 } else { 200 });
        self.reloads.store(self.nginx.reloads(), Ordering::SeqCst);
    }

    fn home(&self) -> Home {
        let home = Home::new();
        let handler = "[[handler]]\naction = \"maintenance_mode\"\nuse = \"builtin\"\n";
        home.rewrite("", &format!("{handler}{}", self.tables()));
        home
    }

    /// The end of a maintenance comes by itself, also after a crash of the daemon.
    fn turns_itself_off(&self) {
        self.set(false);
        let home = self.home();
        let mut daemon = Daemon::start(&home);
        let metadata = json!({ "value": 1, "until": in_seconds(4) });
        let action =
            daemon.finished(daemon.accepted(&with(spec("maintenance_mode", 7), "metadata", metadata)));
        assert_eq!(action["state"], "succeeded", "{action}");
        let off = action["finished_result"]["off_action"].as_u64().expect("an action that turns it off");
        daemon = daemon.crash();
        let off = daemon.finished(off);
        assert_eq!(
            (&off["state"], &off["finished_result"]["changed"]),
            (&json!("succeeded"), &json!(true)),
            "{off}"
        );
        assert_eq!(self.nginx.get("site.sock", "/").0, 200);
        assert_eq!(self.link(), None);
        println!("maintenance_mode: turns itself off: ok");
    }

    /// What cannot be taken back is for a person, and goes on when he says so.
    fn undo_that_is_killed_again_and_again_is_held(&self, stage: &Stage<'_>) {
        let daemon = Daemon::start(&stage.home);
        let metadata = self.prepare();
        stage.breakpoint("switch", "done", "wait");
        let deadline = soon();
        let id = daemon.accepted(&with(stage.spec(&metadata), "deadline", deadline.clone()));
        stage.await_reached(&daemon, id, "switch", "done");
        stage.breakpoint("undo.switch", "intent", "wait");
        assert!(daemon.command(id, "cancel").status < 300);
        // The attempt itself, what takes it back for it, and five more of these.
        for _ in 0..7 {
            stage.await_taken(&daemon, id, "undo.switch", "intent");
            stage.breakpoint("undo.switch", "intent", "wait");
            stage.kill_handler();
        }
        let held = daemon.in_state(id, "held");
        let reason = held["reason"].as_str().expect("a reason");
        assert!(reason.contains("could not be taken back: the handler was lost"), "{held}");
        assert_eq!(self.link(), Some(format!("on-{id}")));
        stage.clear_breakpoints();
        // Neither without its locks nor past its deadline is it forgotten.
        assert!(daemon.command(id, "unlock").status < 300);
        until("its deadline is over", || (soon_from(-3) > deadline).then_some(()));
        assert!(daemon.command(id, "resume").status < 300);
        let action = daemon.finished(id);
        assert_eq!(action["state"], "cancelled", "{action}");
        assert_eq!(action["finished_result"]["error"]["code"], "cancelled", "{action}");
        self.assert_undone(&metadata, &action);
        stage.clear_breakpoints();
    }

    /// What nginx refuses is not left for its next restart.
    fn broken_configuration_is_taken_back(&self) {
        self.set(false);
        let home = self.home();
        let daemon = Daemon::start(&home);
        let config = self.nginx.path("nginx.conf");
        let whole = fs::read_to_string(&config).expect("nginx.conf");
        // Only with the files of maintenance mode it is broken: a variable that nobody defines.
        let include = format!("include {}/current/http.conf*;", self.nginx.path("actiond").display());
        assert!(whole.contains(&include));
        fs::write(&config, whole.replace(&include, "")).expect("nginx.conf");
        let action = daemon.finished(daemon.accepted(&with(
            spec("maintenance_mode", 7),
            "metadata",
            json!({ "value": 1 }),
        )));
        fs::write(&config, whole).expect("nginx.conf");
        let error = &action["finished_result"]["error"];
        assert_eq!((&action["state"], &error["code"]), (&json!("failed"), &json!("config_test")), "{action}");
        assert!(error["message"].as_str().is_some_and(|told| told.contains("unknown")), "{action}");
        assert_eq!(self.link(), None);
        assert_eq!(self.nginx.get("site.sock", "/").0, 200);
        println!("maintenance_mode: a broken configuration is taken back: ok");
    }
}

fn in_seconds(seconds: i64) -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let at = i64::try_from(now).expect("a time") + seconds;
    let at = chrono::DateTime::from_timestamp(at, 0).expect("a time");
    at.to_rfc3339()
}

impl Subject for Mode<'_> {
    fn name(&self) -> String {
        let what = match self.what {
            What::On => "on",
            What::Until => "on, until",
            What::Off => "off",
        };
        format!("maintenance_mode ({what})")
    }

    fn action(&self) -> &'static str {
        "maintenance_mode"
    }

    fn tables(&self) -> String {
        let start = EXAMPLE.find("[targets.site]").expect("a target");
        EXAMPLE[start..]
            .replace("/etc/nginx/actiond", &self.nginx.path("actiond").display().to_string())
            .replace("/run/nginx.pid", &self.nginx.path("nginx.pid").display().to_string())
            .replace(r#"["/usr/sbin/nginx", "-t"]"#, &format!("{:?}", self.nginx.test()))
            .replace("/run/nginx/site.sock", &self.nginx.path("site.sock").display().to_string())
    }

    fn prepare(&self) -> Value {
        self.set(self.what == What::Off);
        match self.what {
            What::On => json!({
                "value": "1",
                "message": "Back at \"six\"; $host <b>",
                "retry_after_s": 77,
                "allow_ips": ["10.0.0.0/8", "2001:db8::1"],
            }),
            What::Until => json!({ "value": 1, "until": in_seconds(3_600) }),
            What::Off => json!({ "value": 0 }),
        }
    }

    fn assert_done(&self, _metadata: &Value, action: &Value) {
        let result = &action["finished_result"];
        let (status, answer) = self.nginx.get("site.sock", "/picture.png");
        assert_eq!(
            (u64::from(status), &result["enabled"]),
            (result["verified_status"].as_u64().expect("a status"), &json!(self.what != What::Off))
        );
        if self.what == What::Off {
            assert_eq!((status, self.link()), (200, None), "{answer}");
        } else {
            assert_eq!((status, self.link()), (503, Some(format!("on-{}", action["id"]))), "{answer}");
            assert!(answer.contains("Content-Type: text/html"), "{answer}");
        }
        if self.what == What::On {
            assert!(answer.contains("Retry-After: 77"), "{answer}");
            assert!(answer.contains("Back at &#34;six&#34;&#59; &#36;host &#60;b&#62;"), "{answer}");
        }
        assert_eq!(result["off_action"].is_u64(), self.what == What::Until, "{action}");
        let reloads = self.nginx.reloads() - self.reloads.load(Ordering::SeqCst);
        if action["attempt"] == 1 {
            assert_eq!(reloads, 1, "{action}");
        } else {
            // What is not known to have been read is read once more.
            assert!((1..=2).contains(&reloads), "{reloads}: {action}");
        }
    }

    fn assert_undone(&self, _metadata: &Value, action: &Value) {
        let (status, link) =
            if self.what == What::Off { (503, Some("by-hand".to_owned())) } else { (200, None) };
        assert_eq!(self.link(), link, "{action}");
        assert_eq!(self.nginx.get("site.sock", "/").0, status, "{action}");
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        let on = |key: &str, value: Value| with(json!({ "value": 1 }), key, value);
        vec![
            (json!({}), "value"),
            (json!({ "value": 2 }), "0 or 1"),
            (json!({ "value": "on" }), "0 or 1"),
            (json!({ "value": true }), "0 or 1"),
            (json!({ "value": 0, "message": "x" }), "message"),
            (on("set_by", json!(1)), "set_by"),
            (on("retry_after_s", json!(0)), "retry_after_s"),
            (on("message", json!("x".repeat(501))), "500"),
            (on("message", json!("a\u{7}b")), "control"),
            (on("allow_ips", json!(["10.0.0.0/8; }"])), "allow_ips"),
            (on("allow_ips", json!(["10.0.0.0/33"])), "allow_ips"),
            (on("until", json!("tomorrow")), "until"),
            (on("until", json!("2001-01-01T00:00:00Z")), "past"),
        ]
    }

    fn special(&self, stage: &Stage<'_>) {
        if self.what == What::On {
            self.undo_that_is_killed_again_and_again_is_held(stage);
        }
    }

    fn take_down(&self) {
        self.nginx.take_down();
    }

    fn bring_up(&self) {
        self.nginx.bring_up();
    }
}
