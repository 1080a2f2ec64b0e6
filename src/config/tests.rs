//! The configuration as a whole: the shipped file, round trips, and what a bad file is told.

use super::schema::{Field, Keys, Retry};
use super::*;

fn problems(text: &str) -> Vec<String> {
    Config::parse(text).expect_err("a bad file must be refused").0
}

#[test]
fn shipped_file_says_exactly_the_defaults() {
    assert_eq!(Config::parse(SHIPPED), Ok(Config::default()));
}

struct Names(Vec<&'static str>);

impl Keys for Names {
    fn key(&mut self, name: &'static str, _: Field<'_>) {
        self.0.push(name);
    }
}

#[test]
fn shipped_file_names_every_key_of_the_schema() {
    let mut config = Config::default();
    let mut sections: Vec<(String, Vec<&str>)> = Vec::new();
    let mut list = |head: String, section: &mut dyn Section| {
        let mut names = Names(Vec::new());
        section.keys(&mut names);
        sections.push((head, names.0));
    };
    for (name, section) in config.sections() {
        list(format!("[{name}]"), section);
    }
    list("[[queue]]".to_owned(), &mut Queue::default());
    list("[[handler]]".to_owned(), &mut Handler::default());
    for (head, keys) in sections {
        let start = SHIPPED.find(&format!("\n{head}\n")).unwrap_or_else(|| panic!("{head} is missing"));
        let body = SHIPPED[start..].lines().skip(2).take_while(|line| !line.starts_with('['));
        let said: Vec<&str> = body
            .filter_map(|line| line.trim_start_matches("# ").split_once(" = "))
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            assert!(said.contains(&key), "{head} does not say {key}");
        }
    }
    let mut retry = Names(Vec::new());
    Retry::new(crate::action::RetryPolicy::default()).keys(&mut retry);
    for key in retry.0 {
        assert!(SHIPPED.contains(&format!("{key} = ")), "{key}");
    }
}

#[test]
fn file_of_the_contract_is_accepted_and_every_other_key_has_its_default() {
    let config = Config::parse(
        r#"
        [store]
        dir = "/srv/a"
        [socket]
        path = "/srv/a.sock"
        [status]
        listen = "127.0.0.1:0"
        [[queue]]
        name = "default"
        concurrency = 3
        [[handler]]
        action = "deploy"
        resource_type = "Stack"
        use = "exec"
        program = ["/usr/local/bin/deploy", "--json"]
        queue = "default"
        recovery = "rerun"
        timeout = "30m"
        retry = { attempts = 3, backoff = "1s", backoff_max = "5m" }
        exclusive = true
        "#,
    )
    .unwrap();
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.queues[0].concurrency, 3);
    let handler = &config.handlers[0];
    assert_eq!((handler.retry.attempts, handler.exclusive), (3, Some(true)));
    assert_eq!(handler.own.keys().collect::<Vec<_>>(), ["program"]);
    assert_eq!(handler.own["program"][1].as_str(), Some("--json"));
    assert_eq!(handler.line.0, 11);
}

#[test]
fn printed_configuration_reads_back_equal() {
    let text = r#"
        [store]
        dir = "/srv/with \"quotes\"\n"
        segment_bytes = 1052672
        [socket]
        path = "/s"
        mode = "0600"
        [access]
        operator_uids = [0, 4294967295]
        [limits]
        wait_max = "1h 1s 5ms"
        [[queue]]
        name = "a"
        [[queue]]
        name = "b"
        [[handler]]
        action = "*"
        queue = "b"
        use = "exec"
        program = ["/bin/true"]
        "odd key" = { deep = [ { x = 1.5, y = 1979-05-27T07:32:00Z } ] }
        environment = { A = "1", "b c" = "2" }
        [[handler]]
        action = "x"
        queue = "a"
        use = "noop"
        recovery = "probe"
        [handler.nested]
        k = true
        "#;
    let config = Config::parse(text).unwrap();
    let printed = config.to_toml();
    assert_eq!(Config::parse(&printed), Ok(config), "{printed}");
    assert_eq!(Config::parse(&Config::default().to_toml()), Ok(Config::default()));
}

#[test]
fn all_problems_are_told_with_key_line_and_bounds() {
    let text = "[store]\ndri = \"/x\"\nsegment_bytes = \"1KiB\"\n[limits]\nrunning_max = 0\nwait_max = 5\n\
                [stor]\n[log]\nlevel = \"loud\"\n[socket]\nmode = \"abc\"\n\
                [[handler]]\naction = \"a\"\nuse = \"noop\"\nqueue = \"none\"\nretry = { attempts = 0, tries = 1 }\n";
    let all = problems(text);
    for part in [
        "line 2: [store] has no key \"dri\"; its keys are cache_bytes, dir",
        "line 3: [store] segment_bytes: is 1KiB; it must lie from 256KiB to 1GiB",
        "line 5: [limits] running_max: is 0; it must lie from 1 to 4096",
        "line 6: [limits] wait_max: must be a string, not an integer",
        "line 7: there is no section or key \"stor\"",
        "line 9: [log] level: \"loud\" is none of error, warn",
        "line 11: [socket] mode: \"abc\" is not an octal mode",
        "line 12: [[handler]] for action \"a\": there is no [[queue]] named \"none\"",
        "line 16: [[handler]] retry attempts: is 0; it must lie from 1 to 1000",
        "line 16: [[handler]] retry has no key \"tries\"",
    ] {
        assert!(all.iter().any(|problem| problem.contains(part)), "{part} is not among {all:#?}");
    }
    assert_eq!(all.len(), 10, "{all:#?}");
}

#[test]
fn broken_toml_is_told_with_its_line_and_nothing_else() {
    let all = problems("[store]\ndir = \"/x\"\nsegment_bytes = = 3\n");
    assert!(all.iter().all(|problem| problem.starts_with("line 3: not TOML: ")), "{all:?}");
    let twice = problems("[store]\ndir = \"/x\"\ndir = \"/y\"\n");
    assert!(twice[0].starts_with("line 3: "), "{twice:?}");
}

#[test]
fn names_paths_and_addresses_are_checked() {
    let long = format!("[socket]\npath = \"/{}\"\n", "x".repeat(107));
    for (text, part) in [
        (long.as_str(), "the kernel takes at most 107"),
        ("[store]\ndir = \"relative\"", "not an absolute path"),
        ("[status]\nlisten = \"localhost:1\"", "not an address and port"),
        ("[[queue]]\nname = \"a\"\n[[queue]]\nname = \"a\"", "used twice"),
        ("[[queue]]\nconcurrency = 2", "needs a name"),
        ("queue = []", "there is no [[queue]]"),
        ("queue = 3", "must be a list of tables"),
        ("store = 3", "must be a section [store]"),
        ("[[handler]]\naction = \"a\"", "needs the key use"),
        ("[[handler]]\naction=\"a\"\nuse=\"noop\"\n[[handler]]\naction=\"a\"\nuse=\"noop\"", "same action"),
        ("[shutdown]\ngrace = \"23s\"", "it must lie from 0s to 22s"),
        ("[retention]\nidempotency_keys = \"6d\"", "from 7d to"),
        ("[socket]\nmode = \"0060\"", "0600 at least"),
        ("[access]\noperator_uids = [-1]", "numeric ids"),
        ("[store]\nsegment_bytes = \"1025KiB\"", "multiple of 4KiB"),
        ("[[handler]]\naction=\"a\"\nuse=\"noop\"\nretry={backoff=\"1h\"}", "longer than backoff_max"),
    ] {
        let all = problems(text);
        assert!(all.iter().any(|problem| problem.contains(part)), "{part} is not among {all:?}");
    }
    assert!(Config::parse("[status]\nlisten = \"\"").is_ok(), "an empty address switches it off");
}

#[test]
fn ordinary_user_without_a_file_gets_the_embedded_default_in_its_own_places() {
    let user = Surroundings {
        home: Some("/home/u".into()),
        runtime_dir: Some("/run/user/7".into()),
        ..Surroundings::default()
    };
    let config = Config::embedded(&user).unwrap();
    assert_eq!(config.store.dir, Path::new("/home/u/.local/state/actiond"));
    assert_eq!(config.socket.path, Path::new("/run/user/7/actiond.sock"));
    assert_eq!(config.handlers, Config::default().handlers);
    let far = Surroundings { runtime_dir: Some(format!("/{}", "x".repeat(120)).into()), ..user };
    assert!(Config::embedded(&far).is_err(), "a socket path that the kernel refuses is a problem");
}

#[test]
fn named_file_that_is_missing_is_a_problem_and_its_problems_name_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    let missing = Config::load(Some(&file), |_| Vec::new()).expect_err("missing");
    assert!(missing.to_string().contains("a.toml"), "{missing}");
    std::fs::write(&file, "[nope]").unwrap();
    let bad = Config::load(Some(&file), |_| Vec::new()).expect_err("unknown section");
    assert!(bad.to_string().contains("a.toml: line 1: there is no section"), "{bad}");
}
