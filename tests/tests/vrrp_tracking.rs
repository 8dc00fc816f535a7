//! Tier 2: what VRRP instances depend on, and whom they tell of it: the operator's scripts and hooks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use axum::http::{Method, StatusCode};
use lab::balancing::{Balancer, Configuration, PATIENCE};
use lab::clients::http::request_blocking;
use lab::{Lab, wait_until};
use lb_ctl::core::status::VrrpStatus;

const AUTHORITY: &str = "127.0.0.1:9410";

fn lab(balancers: u8) -> Lab {
    Lab::builder()
        .balancers(balancers)
        .backends(1)
        .clients(0)
        .start()
        .unwrap()
}

/// A balancer's configuration with these instances.
fn configuration(lab: &Lab, host: usize, instances: &str) -> Configuration {
    let http = format!("[http]\nlisten = [\"{AUTHORITY}\"]\n\n[api]");
    Configuration::of(lab, &lab.balancers()[host])
        .service(
            "impala",
            lab.vips()[0].v4.into(),
            &[("impala1", lab.backends()[0].v4().into(), 1)],
        )
        .with("[api]", &http)
        .unwrap()
        .followed_by(instances)
}

/// The head of an instance with the first VIP; further keys follow.
fn pair(lab: &Lab, priority: u8) -> String {
    format!(
        "\n[[vrrp]]\nname = \"pair\"\nvrid = 51\naddresses = [\"{}\"]\npreempt_delay = \"0s\"\nadvert_interval = \"300ms\"\n\
         priority = {priority}\n",
        lab.vips()[0].v4
    )
}

/// A file of a lab.
fn file(lab: &Lab, name: &str) -> PathBuf {
    lab.directory().join(name)
}

/// A command for the configuration: what a shell does.
fn shell(script: &str) -> String {
    format!("[\"/bin/sh\", \"-c\", {script:?}, \"program\"]")
}

/// A script that fails while a file is there, and counts its runs in another one.
fn fails_while(there: &Path, runs: &Path) -> String {
    format!(
        "script = {}\ninterval = \"100ms\"\nrise = 2\nfall = 2\n",
        shell(&format!(
            "echo >> {}; test ! -e {} || {{ echo no disk; exit 3; }}",
            runs.display(),
            there.display()
        ))
    )
}

fn instance(balancer: &Balancer) -> VrrpStatus {
    balancer.instance().unwrap()
}

fn wait_for(balancer: &Balancer, what: &str, fits: impl Fn(&VrrpStatus) -> bool) -> VrrpStatus {
    wait_until(what, PATIENCE, || {
        let instance = instance(balancer);
        if fits(&instance) {
            Ok(instance)
        } else {
            Err(format!("{instance:?}"))
        }
    })
    .unwrap()
}

fn wait_for_state(balancer: &Balancer, state: &str) -> VrrpStatus {
    balancer.wait_for_state(state).unwrap()
}

#[test]
fn a_script_that_fails_lowers_the_priority_and_the_other_balancer_takes_over() {
    let lab = lab(2);
    let (bad, runs) = (file(&lab, "bad"), file(&lab, "runs"));
    let track = format!("[[vrrp.track]]\n{}lower = 150\n", fails_while(&bad, &runs));
    let first = configuration(&lab, 0, &format!("{}{track}", pair(&lab, 200)));
    let second = configuration(&lab, 1, &pair(&lab, 100));
    let first = Balancer::start(&lab, &lab.balancers()[0], first).unwrap();
    wait_for_state(&first, "master");
    let second = Balancer::start(&lab, &lab.balancers()[1], second).unwrap();
    let backup = wait_for(&second, "a backup that hears the master", |instance| {
        instance.master_priority == Some(200)
    });
    assert_eq!(backup.master, Some(lab.balancers()[0].v4().into()));
    // 3 x 300 ms, and (256 - 100) / 256 of 300 ms.
    assert_eq!((backup.interval_ms, backup.master_down_ms), (300, 1082));
    assert_eq!(backup.previous_state.as_deref(), Some("init"));
    // The timer is set anew by each advertisement, though nothing else changes.
    let mut before = u64::MAX;
    wait_until("the timer to go back before it is up", PATIENCE, || {
        let due = instance(&second).due_ms.unwrap();
        std::mem::replace(&mut before, due) < due
    })
    .unwrap();

    fs::write(&bad, "").unwrap();
    let master = wait_for_state(&second, "master");
    assert_eq!(
        (master.master_priority, master.previous_state.as_deref()),
        (Some(100), Some("backup"))
    );
    assert!(master.due_ms.unwrap() <= 300, "{master:?}");
    let lowered = wait_for_state(&first, "backup");
    assert_eq!((lowered.priority, lowered.configured_priority), (50, 200));
    assert_eq!(lowered.missing.len(), 1, "{lowered:?}");
    assert!(
        lowered.missing[0].ends_with(" fails: ended with status 3"),
        "{lowered:?}"
    );
    let shown = first.lb_ctl(&["vrrp"]).unwrap().stdout;
    assert!(
        shown.contains("50 (of 200)")
            && shown.contains("\npair: /bin/sh -c ")
            && shown.contains(" fails: ended"),
        "{shown}"
    );

    fs::remove_file(&bad).unwrap();
    let master = wait_for_state(&first, "master");
    assert_eq!((master.priority, master.missing), (200, vec![]));
    wait_for_state(&second, "backup");
}

#[test]
fn a_script_of_several_instances_runs_once_and_its_failure_is_a_fault() {
    let lab = lab(1);
    let (bad, runs) = (file(&lab, "bad"), file(&lab, "runs"));
    let track = format!("[[vrrp.track]]\n{}", fails_while(&bad, &runs));
    let other = format!(
        "[[vrrp]]\nname = \"other\"\nvrid = 52\naddresses = [\"{}\"]\n",
        lab.vips()[0].v6
    );
    let both = format!("{}{track}{other}{track}", pair(&lab, 200));
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], configuration(&lab, 0, &both)).unwrap();
    wait_for_state(&balancer, "master");

    let count = || fs::read(&runs).unwrap().len();
    let (before, began) = (count(), Instant::now());
    wait_until("several runs", PATIENCE, || count() >= before + 10).unwrap();
    let ran = count() - before;
    let most = usize::try_from(began.elapsed().as_millis() / 100).unwrap() + 1;
    assert!(ran <= most, "{ran} runs, expected at most {most}");

    fs::write(&bad, "").unwrap();
    let fault = wait_for_state(&balancer, "fault");
    assert!(fault.cause.ends_with(" fails: ended with status 3"), "{fault:?}");
    let line = "a tracked script fails";
    let log = balancer.daemon().unwrap().wait_for_line(line, PATIENCE).unwrap();
    assert!(log.contains("no disk"), "{log}");
    let answer = lab.balancers()[0]
        .enter(|| request_blocking(Method::GET, AUTHORITY, "/healthz", PATIENCE))
        .unwrap()
        .unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(
        answer
            .body
            .contains("warning: VRRP instance pair is at fault: /bin/sh -c "),
        "{}",
        answer.body
    );

    // Without the script nothing is missing, and it is not run any more; the instance goes on as it is. Another script at the same pace
    // shows that there has been time for it to be run.
    let others = file(&lab, "others");
    let another = fails_while(&file(&lab, "never"), &others);
    let text = format!("{}{other}[[vrrp.track]]\n{another}", pair(&lab, 200));
    balancer.reconfigure(configuration(&lab, 0, &text)).unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    let master = wait_for_state(&balancer, "master");
    assert_eq!(master.transitions["fault"], 1, "{master:?}");
    let wait_for_others = |least: usize| {
        wait_until("the other script's runs", PATIENCE, || {
            fs::read(&others).map_or(0, |lines| lines.len()) >= least
        })
        .unwrap();
    };
    wait_for_others(2);
    let before = count();
    wait_for_others(8);
    assert_eq!(count(), before);
}

/// A master must not give up what it holds because nobody has looked yet.
#[test]
fn an_interface_on_which_a_reload_has_an_instance_depend_counts_once_it_has_been_looked_at() {
    let lab = lab(1);
    let host = &lab.balancers()[0];
    let alone = pair(&lab, 200);
    let mut balancer = Balancer::start(&lab, host, configuration(&lab, 0, &alone)).unwrap();
    wait_for_state(&balancer, "master");
    let track = |interface| format!("{alone}[[vrrp.track]]\ninterface = \"{interface}\"\n");
    balancer
        .reconfigure(configuration(&lab, 0, &track("lo")))
        .unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    let master = wait_for_state(&balancer, "master");
    assert_eq!(master.transitions["fault"], 0, "{master:?}");
    balancer
        .reconfigure(configuration(&lab, 0, &track("nowhere")))
        .unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    wait_for_state(&balancer, "fault");
}

/// The processes of the machine whose command line contains this.
fn processes_with(text: &str) -> Vec<String> {
    let of = |entry: std::io::Result<fs::DirEntry>| {
        let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(text).then_some(line)
    };
    fs::read_dir("/proc").unwrap().filter_map(of).collect()
}

#[test]
fn a_script_that_hangs_has_failed_and_nothing_of_it_stays_behind() {
    let lab = lab(1);
    // A number that nobody else waits for.
    let sleep = format!("sleep 86{}.25", std::process::id());
    let track = format!(
        "[[vrrp.track]]\nscript = {}\ninterval = \"200ms\"\ntimeout = \"150ms\"\nfall = 2\nlower = 10\n",
        shell(&format!("{sleep} & {sleep}"))
    );
    let text = format!("{}{track}", pair(&lab, 200));
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], configuration(&lab, 0, &text)).unwrap();
    let lowered = wait_for(&balancer, "a lower priority", |instance| instance.priority == 190);
    assert!(
        lowered.missing[0].ends_with("did not end within 150ms, and was killed"),
        "{lowered:?}"
    );
    wait_for_state(&balancer, "master");
    // Of each run the shell and two that wait, but not of the runs before.
    let most = processes_with(&sleep).len();
    assert!(most <= 3, "{most}");
    assert!(balancer.daemon().unwrap().terminate(PATIENCE).unwrap().success());
    wait_until("the end of the script", PATIENCE, || {
        let left: Vec<String> = processes_with(&sleep)
            .into_iter()
            .filter(|line| !line.contains("lb-ctl"))
            .collect();
        left.is_empty().then_some(()).ok_or(format!("{left:?}"))
    })
    .unwrap();
}

#[test]
fn programs_that_are_not_there_are_told_of_before_and_fail_when_they_are_needed() {
    let lab = lab(1);
    let plain = file(&lab, "plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    let text = format!(
        "{}notify = [\"/nonexistent/tell\"]\n[[vrrp.track]]\nscript = [{plain:?}]\ninterval = \"100ms\"\nlower = 10\n",
        pair(&lab, 200)
    );
    let mut balancer = Balancer::prepare(&lab, &lab.balancers()[0], configuration(&lab, 0, &text)).unwrap();
    let path = balancer.file().display().to_string();
    let check = |balancer: &Balancer, options: &[&str]| {
        let arguments = [&["check", "--config", path.as_str()], options].concat();
        balancer.lb_ctl_alone(&arguments).unwrap()
    };
    assert_eq!(check(&balancer, &[]).code, Some(0));
    let checked = check(&balancer, &["--host"]);
    assert_eq!(checked.code, Some(2), "{checked:?}");
    for said in [
        "vrrp[pair].notify: expected a program that can be run, found /nonexistent/tell, which cannot be read: No such file",
        "vrrp[pair].track[#1].script: expected a program that can be run, found",
        "plain, which is not executable; `chmod +x ",
    ] {
        assert!(checked.stderr.contains(said), "{said}: {checked:?}");
    }

    balancer.run(&[]).unwrap();
    let lowered = wait_for(&balancer, "a lower priority", |instance| instance.priority == 190);
    assert!(
        lowered.missing[0].ends_with("plain fails: could not be run: Permission denied (os error 13)"),
        "{lowered:?}"
    );
    let failed = wait_for(&balancer, "two failed notifications", |instance| {
        instance.notifications["failed"] == 2
    });
    assert_eq!(failed.state, "master");
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o755)).unwrap();
    wait_for(&balancer, "the whole priority", |instance| {
        instance.priority == 200
    });
}

#[test]
fn a_hook_is_told_of_every_change_of_state_as_scripts_for_keepalived_are() {
    let lab = lab(1);
    let log = file(&lab, "log");
    let notify = shell(&format!(
        "echo \"$* $LB_PREVIOUS_STATE>$LB_STATE $LB_CAUSE|$LB_CAUSE_TEXT|$HOME\" >> {}",
        log.display()
    ));
    let text = format!("{}notify = {notify}\n", pair(&lab, 200));
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], configuration(&lab, 0, &text)).unwrap();
    let told = |balancer: &Balancer, times: u64| {
        wait_for(balancer, "the hook to be told", |instance| {
            instance.notifications["succeeded"] == times
        })
    };
    told(&balancer, 2);
    let host = &lab.balancers()[0];
    host.run(&["ip", "link", "set", "eth0", "down"]).unwrap();
    told(&balancer, 3);
    host.run(&["ip", "link", "set", "eth0", "up"]).unwrap();
    told(&balancer, 5);
    // Another hook does not begin the instance anew.
    let text = text.replace("$*", "again $*");
    balancer.reconfigure(configuration(&lab, 0, &text)).unwrap();
    assert_eq!(balancer.lb_ctl(&["reload"]).unwrap().code, Some(0));
    let told = told(&balancer, 5);
    assert_eq!(told.notifications.values().sum::<u64>(), 5, "{told:?}");
    assert!(balancer.daemon().unwrap().terminate(PATIENCE).unwrap().success());
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "INSTANCE pair BACKUP 200 init>backup started|started|\n\
         INSTANCE pair MASTER 200 backup>master silence|nobody advertises|\n\
         INSTANCE pair FAULT 200 master>fault fault|the link of eth0 is down|\n\
         INSTANCE pair BACKUP 200 fault>backup recovered|nothing is missing any more|\n\
         INSTANCE pair MASTER 200 backup>master silence|nobody advertises|\n\
         again INSTANCE pair STOP 200 master>init stopped|stopped|\n"
    );
}

#[test]
fn a_hook_that_hangs_delays_nothing_and_is_told_of_the_last_state() {
    let lab = lab(1);
    let log = file(&lab, "log");
    let notify = shell(&format!(
        "echo $3 >> {}; test $3 != BACKUP || exec sleep 1000",
        log.display()
    ));
    let text = format!("{}notify = {notify}\nnotify_timeout = \"8s\"\n", pair(&lab, 200));
    let mut balancer = Balancer::start(&lab, &lab.balancers()[0], configuration(&lab, 0, &text)).unwrap();
    let host = &lab.balancers()[0];
    wait_for_state(&balancer, "master");
    host.run(&["ip", "link", "set", "eth0", "down"]).unwrap();
    let fault = wait_for_state(&balancer, "fault");
    assert_eq!(
        fault.notifications.values().sum::<u64>(),
        fault.notifications["superseded"],
        "it hangs still: {fault:?}"
    );
    let told = wait_for(&balancer, "the hook to be told of the fault", |instance| {
        instance.notifications["succeeded"] == 1
    });
    assert_eq!(
        (told.notifications["timeout"], told.notifications["superseded"]),
        (1, 1),
        "{told:?}"
    );
    assert_eq!(fs::read_to_string(&log).unwrap(), "BACKUP\nFAULT\n");
    let daemon = balancer.daemon().unwrap();
    let output = daemon.output().unwrap();
    for said in [
        "the state lasted less long than notify takes",
        "did not end within 8s, and was killed",
    ] {
        assert!(output.contains(said), "{said}: {output}");
    }
}
