//! `webhook` on a service of the test, over TCP, TLS and a Unix socket, with the handlers of the example of the configuration.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::cases::Stage;
use crate::common::{Daemon, until, with};
use crate::servers::endpoint::{Door, Endpoint, secret_file};
use crate::subject::Subject;

const EXAMPLE: &str = include_str!("../../config/examples/webhook.toml");

/// Gives each subject of this family to `try_it`.
pub fn each(try_it: &mut dyn FnMut(&dyn Subject)) {
    for (what, door, is_idempotent) in
        [(What::Plain, Door::Http, true), (What::Held, Door::Unix, false), (What::Polled, Door::Https, true)]
    {
        let endpoint = Endpoint::start(door, is_idempotent);
        try_it(&Webhook { what, endpoint, cases: AtomicU64::new(1) });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Over TCP, to an idempotent service.
    Plain,
    /// Over a Unix socket, to one that is not.
    Held,
    /// Over TLS; it answers 202 and is polled.
    Polled,
}

struct Webhook {
    what: What,
    endpoint: Endpoint,
    cases: AtomicU64,
}

impl Webhook {
    /// The handler of the example, as it reaches the service of the test.
    fn table(&self) -> toml::Table {
        let example: toml::Table = toml::from_str(EXAMPLE).expect("the example");
        let handlers = example["handler"].as_array().expect("handlers");
        let handler = handlers.iter().find(|handler| handler["action"].as_str() == Some(self.action()));
        let mut handler = handler.and_then(toml::Value::as_table).expect("a handler").clone();
        for key in ["action", "retry", "timeout"] {
            handler.remove(key);
        }
        let file = |name: &str| toml::Value::from(format!("file:{}", self.endpoint.path(name).display()));
        let path = |name: &str| toml::Value::from(self.endpoint.path(name).display().to_string());
        handler.insert("url".into(), self.endpoint.url().into());
        handler.insert("secret".into(), file("secret"));
        handler.insert("old_secret".into(), file("secret.old"));
        handler.insert("authorization".into(), file("authorization"));
        handler.insert("answer_timeout".into(), "2s".into());
        match self.what {
            What::Plain => drop(handler.remove("ca_file")),
            What::Polled => drop(handler.insert("ca_file".into(), path("ca.pem"))),
            What::Held => drop(handler.insert("socket".into(), path("socket"))),
        }
        if self.what != What::Held {
            handler.insert("addresses".into(), vec!["127.0.0.0/8"].into());
        }
        handler
    }

    fn case(&self, rest: &[(&str, Value)]) -> Value {
        let number = self.cases.fetch_add(1, Ordering::SeqCst);
        rest.iter().fold(json!({ "case": number, "precise": 1.50 }), |all, (key, value)| {
            with(all, key, value.clone())
        })
    }

    fn number(metadata: &Value) -> u64 {
        metadata["case"].as_u64().expect("a case")
    }

    /// How often a message came, its ids, how often it was asked whether it is done, and its effects.
    fn seen(&self, metadata: &Value) -> (usize, usize, usize, u32) {
        let state = self.endpoint.state();
        let Some(case) = state.cases.get(&Self::number(metadata)) else { return (0, 0, 0, 0) };
        let mut ids: Vec<&String> = case.posts.iter().map(|(_, id, _)| id).collect();
        ids.dedup();
        (case.posts.len(), ids.len(), case.polls.len(), case.effects)
    }

    fn assert_all_is_right(&self) {
        let state = self.endpoint.state();
        assert!(state.wrong.is_empty(), "{:#?}", state.wrong);
    }

    /// The pauses between the times at which a message came.
    fn pauses(&self, metadata: &Value) -> Vec<Duration> {
        let state = self.endpoint.state();
        let times: Vec<SystemTime> =
            state.cases[&Self::number(metadata)].posts.iter().map(|(at, _, _)| *at).collect();
        times.windows(2).map(|two| two[1].duration_since(two[0]).expect("later")).collect()
    }
}

/// State, code of the failure, and message.
fn end(action: &Value) -> (&str, &str, &str) {
    let code = action["finished_result"]["error"]["code"].as_str().unwrap_or_default();
    (
        action["state"].as_str().unwrap_or_default(),
        code,
        action["finished_message"].as_str().unwrap_or_default(),
    )
}

impl Subject for Webhook {
    fn name(&self) -> String {
        let of = match self.what {
            What::Plain => "http, idempotent",
            What::Held => "unix, not idempotent",
            What::Polled => "https, polled",
        };
        format!("webhook ({of})")
    }

    fn action(&self) -> &'static str {
        if self.what == What::Held { "report_build" } else { "invoice_send" }
    }

    fn tables(&self) -> String {
        String::new()
    }

    fn handler(&self) -> String {
        toml::to_string(&self.table()).expect("a table")
    }

    fn takes_any_metadata(&self) -> bool {
        true
    }

    fn prepare(&self) -> Value {
        let polled = [("answers", json!(["202"]))];
        self.case(if self.what == What::Polled { &polled } else { &[] })
    }

    fn assert_done(&self, metadata: &Value, action: &Value) {
        self.assert_all_is_right();
        let (posts, ids, polls, effects) = self.seen(metadata);
        let is_plain = self.what != What::Polled;
        assert!(
            posts >= 1 && effects >= 1 && (is_plain || polls >= 1),
            "{posts} {polls} {effects}: {action}"
        );
        let result = &action["finished_result"];
        assert_eq!((&result["http_status"], &result["sent"]), (&json!(200), &metadata["case"]), "{action}");
        assert_eq!(action["finished_message"], "invoice sent");
        let of_this = self.endpoint.state().cases[&Self::number(metadata)]
            .posts
            .iter()
            .filter(|(_, id, _)| result["webhook_id"] == json!(id))
            .count();
        assert!(of_this >= 1, "another id: {action}");
        if self.what == What::Held {
            assert_eq!(of_this, 1, "more than once to one that is not idempotent: {action}");
        } else {
            assert_eq!(usize::try_from(effects).ok(), Some(ids), "an id has one effect: {action}");
        }
        assert!(!action.to_string().contains("canary"), "a secret in {action}");
    }

    fn assert_undone(&self, metadata: &Value, action: &Value) {
        self.assert_all_is_right();
        assert_eq!(self.seen(metadata).3, 0, "{action}");
    }

    fn again(&self) -> Option<&'static str> {
        None
    }

    fn repeats(&self) -> bool {
        true
    }

    fn refused(&self) -> Vec<(Value, &'static str)> {
        vec![(json!({ "dry_run": "yes" }), "dry_run"), (json!({ "timeout_s": "soon" }), "timeout_s")]
    }

    fn take_down(&self) {
        self.endpoint.take_down();
    }

    fn bring_up(&self) {
        self.endpoint.bring_up();
    }

    fn keeps_effect(&self) -> bool {
        true
    }

    fn held_at(&self, step: &str, place: &str) -> Option<&'static str> {
        (self.what == What::Held && step == "send" && place != "done").then_some("not said to be idempotent")
    }

    fn own(&self, ask: &dyn Fn(Value) -> Value) {
        self.answers_mean_what_they_say(ask);
        match self.what {
            What::Plain => self.answers_are_kept_within_bounds(ask),
            What::Held => {}
            What::Polled => self.polls_mean_what_they_say(ask),
        }
        self.assert_all_is_right();
    }

    fn special(&self, stage: &Stage<'_>) {
        self.retries(stage);
        match self.what {
            What::Plain => self.nothing_is_sent_to_a_forbidden_address(stage),
            What::Held => self.unanswered_is_held(stage),
            What::Polled => self.polling_goes_on_after_a_crash(stage),
        }
        // As it was for what follows.
        stage.configure(1);
    }
}

impl Webhook {
    /// Without another try.
    fn answers_mean_what_they_say(&self, ask: &dyn Fn(Value) -> Value) {
        for (word, state, code, told) in [
            ("404", "failed", "refused", "answered 404: this is 404"),
            ("422", "failed", "refused", "answered 422"),
            ("302", "failed", "redirected", "\"/elsewhere\", and that is not followed"),
            ("307", "failed", "redirected", "not followed"),
            ("500", "failed", "unavailable", "answered 500"),
            ("429 1", "failed", "unavailable", "answered 429"),
        ] {
            let metadata = self.case(&[("answers", json!([word]))]);
            let action = ask(metadata.clone());
            let (is, of, message) = end(&action);
            assert_eq!((is, of), (state, code), "{word}: {action}");
            assert!(message.contains(told), "{word}: {action}");
            assert_eq!(self.seen(&metadata), (1, 1, 0, 0), "{word}");
        }
        let metadata =
            self.case(&[("answers", json!(["same"])), ("target", json!("theirs")), ("password", json!("x"))]);
        let action = ask(metadata.clone());
        assert_eq!(end(&action).0, "succeeded", "{action}");
        let result = &action["finished_result"];
        assert_eq!(result["changed"], false, "as the service says: {action}");
        assert!(result["steps"].is_array(), "ours: {action}");
        let action = ask(self.case(&[("answers", json!(["text"]))]));
        let result = &action["finished_result"];
        assert_eq!(
            (&result["answer"], &result["http_status"]),
            (&json!("well done"), &json!(201)),
            "{action}"
        );
        assert!(end(&action).2.ends_with("answered 201"), "{action}");
    }

    fn answers_are_kept_within_bounds(&self, ask: &dyn Fn(Value) -> Value) {
        for (word, why) in
            [("large", "limits.result_bytes_max"), ("huge", "longer than 1048576"), ("cut", "broke off")]
        {
            let action = ask(self.case(&[("answers", json!([word]))]));
            assert_eq!(end(&action).0, "succeeded", "{word}: {action}");
            let warnings = action["finished_result"]["warnings"].to_string();
            assert!(warnings.contains(why), "{word}: {action}");
        }
        let action = ask(self.case(&[("answers", json!(["hang"]))]));
        assert_eq!((end(&action).0, end(&action).1), ("failed", "no_answer"), "{action}");
        assert!(end(&action).2.contains("within 2s"), "{action}");
    }

    /// With another try: what may pass is sent again, with the same id and body, when the service says.
    fn retries(&self, stage: &Stage<'_>) {
        stage.configure_retry(6, "100ms", "3s");
        let daemon = Daemon::start(&stage.home);
        let of = |metadata: &Value| daemon.finished(daemon.accepted(&stage.spec(metadata)));
        let metadata = self.case(&[("answers", json!(["500", "503", "408", "425", "ok"]))]);
        let action = of(&metadata);
        assert_eq!((end(&action).0, &action["attempt"]), ("succeeded", &json!(5)), "{action}");
        assert_eq!(self.seen(&metadata), (5, 1, 0, 1));
        let metadata = self.case(&[("answers", json!(["429 2", "503 at 2", "429 0", "503 600", "ok"]))]);
        let action = of(&metadata);
        assert_eq!(end(&action).0, "succeeded", "{action}");
        let pauses = self.pauses(&metadata);
        let secs: Vec<f32> = pauses.iter().map(Duration::as_secs_f32).collect();
        // A time is of whole seconds.
        assert!(secs[0] >= 1.9 && secs[1] >= 0.9, "Retry-After is not honoured: {secs:?}");
        assert!((2.9..30.0).contains(&secs[3]), "not within backoff_max: {secs:?}");
        let metadata = self.case(&[("answers", json!(["404", "ok"]))]);
        let action = of(&metadata);
        assert_eq!((end(&action).0, self.seen(&metadata).0), ("failed", 1), "{action}");
        if self.what != What::Held {
            let metadata = self.case(&[("answers", json!(["drop", "lose", "ok"]))]);
            let action = of(&metadata);
            assert_eq!(end(&action).0, "succeeded", "{action}");
            assert_eq!(self.seen(&metadata), (3, 1, 0, 1), "the same id, and one effect");
        }
        self.assert_all_is_right();
    }

    fn unanswered_is_held(&self, stage: &Stage<'_>) {
        let daemon = Daemon::start(&stage.home);
        for (word, why) in
            [("drop", "has not answered"), ("hang", "no answer within 2s"), ("202 elsewhere", "elsewhere")]
        {
            let metadata = self.case(&[("answers", json!([word]))]);
            let id = daemon.accepted(&stage.spec(&metadata));
            let action = daemon.in_state(id, "held");
            assert!(action["reason"].as_str().is_some_and(|told| told.contains(why)), "{word}: {action}");
            assert_eq!(self.seen(&metadata).0, 1, "{word}");
            daemon.commanded(id, "unlock");
        }
        // One that was answered is known: another try is made although it is not idempotent, and after it nothing is held.
        let metadata = self.case(&[("answers", json!(["503", "drop"]))]);
        let id = daemon.accepted(&stage.spec(&metadata));
        daemon.in_state(id, "held");
        assert_eq!(self.seen(&metadata), (2, 1, 0, 1));
        daemon.commanded(id, "unlock");
        // What is accepted and not known any more is not known to have failed.
        for word in ["404", "410", "303"] {
            let metadata = self.case(&[("answers", json!(["202"])), ("polls", json!(["202 1", word]))]);
            let id = daemon.accepted(&stage.spec(&metadata));
            let action = daemon.in_state(id, "held");
            let told = "what was accepted cannot be followed any more";
            assert!(
                action["reason"].as_str().is_some_and(|reason| reason.contains(told)),
                "{word}: {action}"
            );
            assert_eq!(self.seen(&metadata).2, 2, "{word}");
            daemon.commanded(id, "unlock");
        }
    }

    fn polls_mean_what_they_say(&self, ask: &dyn Fn(Value) -> Value) {
        let polled = |polls: Value| {
            let metadata = self.case(&[("answers", json!(["202"])), ("polls", polls)]);
            (ask(metadata.clone()), metadata)
        };
        let (action, metadata) = polled(json!(["202", "503", "202", "ok"]));
        assert_eq!(end(&action).0, "succeeded", "{action}");
        assert_eq!(self.seen(&metadata), (1, 1, 4, 1));
        let (action, metadata) = polled(json!(["422"]));
        assert_eq!((end(&action).0, end(&action).1), ("failed", "refused"), "{action}");
        assert_eq!(self.seen(&metadata).2, 1);
        let (action, metadata) = polled(json!(["202 3", "ok"]));
        assert_eq!(end(&action).0, "succeeded", "{action}");
        let state = self.endpoint.state();
        let polls = &state.cases[&Self::number(&metadata)].polls;
        let pause = polls[1].duration_since(polls[0]).expect("later");
        assert!(pause >= Duration::from_millis(2_900), "Retry-After is not honoured: {pause:?}");
    }

    /// Daemon, keeper and handler die while it is polled: it is not sent again.
    fn polling_goes_on_after_a_crash(&self, stage: &Stage<'_>) {
        let mut daemon = Daemon::start(&stage.home);
        let metadata =
            self.case(&[("answers", json!(["202"])), ("polls", json!(["202", "202", "202", "ok"]))]);
        let id = daemon.accepted(&stage.spec(&metadata));
        until("a poll", || (self.seen(&metadata).2 >= 1).then_some(()));
        daemon = daemon.crash_with_keepers();
        let action = daemon.finished(id);
        assert_eq!(end(&action).0, "succeeded", "{action}");
        assert_eq!((self.seen(&metadata).0, self.seen(&metadata).3), (1, 1), "{action}");
    }

    fn nothing_is_sent_to_a_forbidden_address(&self, stage: &Stage<'_>) {
        let ask = |changes: &[(&str, Option<toml::Value>)]| {
            let mut handler = self.table();
            for (key, value) in changes {
                handler.remove(*key);
                if let Some(value) = value {
                    handler.insert((*key).to_owned(), value.clone());
                }
            }
            let lines = toml::to_string(&handler).expect("a table");
            stage.home.rewrite("", &format!("[[handler]]\naction = \"{}\"\n{lines}", self.action()));
            let daemon = Daemon::start(&stage.home);
            let metadata = self.case(&[]);
            let action = daemon.finished(daemon.accepted(&stage.spec(&metadata)));
            assert_eq!(self.seen(&metadata).0, 0, "{action}");
            action
        };
        let action =
            ask(&[("addresses", None), ("url", Some("http://169.254.169.254/latest/meta-data".into()))]);
        assert_eq!((end(&action).0, end(&action).1), ("failed", "address"), "{action}");
        assert!(end(&action).2.contains("not allowed"), "{action}");
        let action = ask(&[("addresses", Some(vec!["10.0.0.0/8"].into()))]);
        assert_eq!(end(&action).1, "address", "{action}");
        // Nor without the right secret, which is not shown either.
        let path = self.endpoint.path("bad");
        secret_file(&path, "whsec_canary");
        let action = ask(&[("secret", Some(format!("file:{}", path.display()).into()))]);
        assert_eq!(end(&action).1, "secret", "{action}");
        assert!(!action.to_string().contains("whsec_canary"), "{action}");
    }
}
