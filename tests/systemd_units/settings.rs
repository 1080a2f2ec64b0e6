//! The settings of a handler: what of them systemd takes over, and what is refused before it sees them.

use actiond::runner::units::UnitSettings;

use crate::container::Container;
use crate::{line, plan, settings, start, wait};

#[test]
fn settings_are_what_systemd_says_afterwards() {
    let container = Container::start();
    let all = "
        CPUQuota = \"150%\"
        CPUWeight = 200
        IOWeight = 50
        InaccessiblePaths = [\"/boot\", \"-/nowhere\"]
        LimitNPROC = 500
        LockPersonality = true
        MemoryDenyWriteExecute = true
        MemoryHigh = \"1G\"
        MemoryMax = \"2G\"
        MemorySwapMax = \"infinity\"
        Nice = 5
        NoNewPrivileges = true
        OOMScoreAdjust = 300
        PrivateDevices = true
        PrivateIPC = true
        PrivateNetwork = true
        PrivateTmp = true
        ProtectClock = true
        ProtectHome = \"read-only\"
        ProtectHostname = true
        ProtectKernelLogs = true
        ProtectKernelModules = true
        ProtectKernelTunables = true
        ProtectSystem = \"strict\"
        ReadOnlyPaths = [\"/srv\"]
        ReadWritePaths = [\"/var/tmp\"]
        RestrictAddressFamilies = [\"AF_UNIX\", \"AF_INET\"]
        RestrictRealtime = true
        RestrictSUIDSGID = true
        Slice = \"actiond-programs.slice\"
        SupplementaryGroups = [\"games\"]
        SystemCallFilter = [\"~@clock\", \"@swap\"]
        TasksMax = 100";
    wait(async {
        let units = container.units();
        let script = "touch /var/lib/kept /var/tmp/kept; touch /usr/kept || echo read-only >&0; read -r line";
        let mut plan = plan(30, script);
        plan.settings = settings(all).unwrap();
        plan.write_paths = vec!["/var/lib".into()];
        let (mut socket, _) = start(&units, &plan).await;
        assert_eq!(line(&mut socket), "read-only");
        container.run(&["ls", "/var/lib/kept"]);
        let shown = container.run(&["systemctl", "show", &plan.name]);
        for says in [
            "CPUQuotaPerSecUSec=1.500000s",
            "CPUWeight=200",
            "IOWeight=50",
            "InaccessiblePaths=/boot -/nowhere",
            "LimitNPROC=500",
            "LimitNPROCSoft=500",
            "MemoryHigh=1073741824",
            "MemoryMax=2147483648",
            "MemorySwapMax=infinity",
            "Nice=5",
            "OOMScoreAdjust=300",
            "ProtectHome=read-only",
            "ProtectSystem=strict",
            "ReadOnlyPaths=/srv",
            "ReadWritePaths=/var/tmp /var/lib",
            "RestrictAddressFamilies=AF_INET AF_UNIX",
            "Slice=actiond-programs.slice",
            "SupplementaryGroups=games",
            "TasksMax=100",
            "OOMPolicy=continue",
            "Delegate=yes",
        ] {
            assert!(shown.lines().any(|line| line == says), "{says} is not in\n{shown}");
        }
        for line in all.lines().filter_map(|line| line.trim().strip_suffix(" = true")) {
            assert!(shown.contains(&format!("\n{line}=yes\n")), "{line}");
        }
        let filter = shown.lines().find_map(|line| line.strip_prefix("SystemCallFilter=")).unwrap();
        assert!(
            filter.starts_with('~') && filter.contains("swapon") && filter.contains("clock_settime"),
            "{filter}"
        );
        assert!(units.end(&plan.name).await.unwrap());
    });
}

#[test]
fn unknown_or_unfit_settings_are_refused_with_the_known_ones_named() {
    let problems = settings("MemoryMaxx = 1").unwrap_err();
    assert!(problems[0].starts_with("MemoryMaxx is not a key of unit; known are CPUQuota,"), "{problems:?}");
    assert!(problems[0].contains("MemoryMax,"), "{problems:?}");
    for unfit in [
        "MemoryMax = \"512MB\"",
        "MemoryMax = \"-1\"",
        "MemoryMax = 0",
        "MemoryMax = \"99999999999T\"",
        "TasksMax = true",
        "CPUQuota = \"0%\"",
        "CPUQuota = 50",
        "CPUWeight = 0",
        "Nice = 20",
        "PrivateNetwork = \"yes\"",
        "ProtectSystem = \"most\"",
        "ProtectHome = 1",
        "Slice = \"a.service\"",
        "Slice = \"a/b.slice\"",
        "ReadOnlyPaths = [\"srv\"]",
        "ReadOnlyPaths = \"/srv\"",
        "ReadOnlyPaths = []",
        "SupplementaryGroups = [\"\"]",
        "SystemCallFilter = \"@clock\"",
    ] {
        let problems = settings(unfit).unwrap_err();
        let key = unfit.split(' ').next().unwrap();
        assert!(
            problems.len() == 1 && problems[0].starts_with(&format!("{key} must be ")),
            "{unfit}: {problems:?}"
        );
    }
    assert_eq!(settings("ProtectSystem = true"), settings("ProtectSystem = \"yes\""));
    assert_eq!(settings("MemoryMax = \"1K\""), settings("MemoryMax = 1024"));
    assert_eq!(settings("").unwrap(), UnitSettings::default());
}
