//! Tier 2: the coordinators of a service are read from their own pages, as they come, go, and lie.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy takes only the test functions for tests, not their helpers"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use axum::http::Method;
use lab::balancing::{
    Balancer, Configuration, Coordinator, HS2_PORT, PATIENCE, WEB_PORT, start_coordinators,
    take_vips_off_backends,
};
use lab::clients::held::{all_live, count_resets, hold_sessions};
use lab::clients::hs2::coordinator_name;
use lab::clients::http::request_blocking;
use lab::{Lab, wait_until};
use lb_ctl::core::status::{BackendStatus, SeedStatus, ServiceStatus};

const CHECK: &str =
    "[service.check]\ntype = \"impala\"\ninterval = \"250ms\"\nfast_interval = \"100ms\"\ntimeout = \"2s\"\n";

/// Where the balancer can be asked for its metrics.
const AUTHORITY: &str = "127.0.0.1:9410";

/// A lab with a balancer that discovers three coordinators, of which the first two are seeds.
struct Cluster {
    lab: Lab,
    coordinators: Vec<Coordinator>,
    balancer: Balancer,
}

fn configuration(lab: &Lab, static_backends: &[(&str, IpAddr, u32)]) -> Configuration {
    let seed = |number: usize| format!("\"{}:{WEB_PORT}\"", lab.backends()[number].v4());
    let discovery = format!(
        "[service.discovery]\ntype = \"impala\"\nseeds = [{}, {}]\ninterval = \"1s\"\ntimeout = \"1s\"\n",
        seed(0),
        seed(1)
    );
    Configuration::of(lab, &lab.balancers()[0])
        .service("impala", lab.vips()[0].v4.into(), static_backends)
        .with("port = 21050\n", &format!("port = 21050\n{CHECK}{discovery}"))
        .unwrap()
}

impl Cluster {
    /// A lab in which only these coordinators are on the pages.
    fn new(without: &str) -> Self {
        Self::with(without, |configuration| configuration)
    }

    /// The same with a changed configuration.
    fn with(without: &str, change: impl FnOnce(Configuration) -> Configuration) -> Self {
        let lab = Lab::builder()
            .balancers(1)
            .backends(3)
            .clients(1)
            .vips(1)
            .start()
            .unwrap();
        let coordinators = start_coordinators(&lab).unwrap();
        for seed in &coordinators[..2] {
            seed.answer_backends(without).unwrap();
        }
        let configuration = change(configuration(&lab, &[]));
        let balancer = Balancer::start(&lab, &lab.balancers()[0], configuration).unwrap();
        Self {
            lab,
            coordinators,
            balancer,
        }
    }

    /// How both seeds answer from now on.
    fn seeds_answer(&self, how: &str) {
        for seed in &self.coordinators[..2] {
            seed.answer_backends(how).unwrap();
        }
    }

    fn connect(&self, count: usize) -> Vec<TcpStream> {
        let service = SocketAddr::from((self.lab.vips()[0].v4, HS2_PORT));
        self.lab.clients()[0]
            .enter(|| {
                let connect = |_| {
                    let stream = TcpStream::connect_timeout(&service, PATIENCE).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream
                };
                (0..count).map(connect).collect()
            })
            .unwrap()
    }

    /// The coordinators that serve 40 new connections, each of which must succeed. With those that tests hold these are fewer than
    /// the 64 that a coordinator serves at a time.
    fn served(&self) -> Vec<String> {
        let streams = self.connect(40);
        let names: BTreeSet<String> = streams
            .iter()
            .map(|stream| coordinator_name(stream).unwrap())
            .collect();
        names.into_iter().collect()
    }

    /// Gives a command that must succeed.
    fn succeed(&self, arguments: &[&str]) {
        let output = self.balancer.lb_ctl(arguments).unwrap();
        assert_eq!(output.code, Some(0), "{arguments:?}: {output:?}");
    }

    fn service(&self) -> ServiceStatus {
        self.balancer.status().unwrap().services.remove(0)
    }

    fn seeds(&self) -> Vec<SeedStatus> {
        self.service().discovery.expect("there is discovery").seeds
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&[BackendStatus]) -> bool) {
        wait_until(what, PATIENCE, || {
            let backends = self.service().backends;
            if holds(&backends) {
                Ok(())
            } else {
                Err(format!("{backends:?}"))
            }
        })
        .unwrap();
    }

    fn wait_for_all_up(&self, names: &[&str]) {
        self.wait_for(&format!("{names:?} to be up"), |backends| {
            let found: Vec<&str> = backends.iter().map(|it| it.name.as_str()).collect();
            found == names && backends.iter().all(|it| it.health == "up" && it.slots > 0)
        });
    }

    /// Waits for so many more answers of each seed, good or bad: there is one a second.
    fn wait_for_answers(rounds: u64) {
        thread::sleep(Duration::from_secs(rounds + 1));
    }
}

const ALL: [&str; 3] = ["impala1", "impala2", "impala3"];

#[test]
fn discovered_coordinators_come_and_go_and_no_connection_breaks() {
    let mut cluster = Cluster::new("without=impala3");
    cluster.wait_for_all_up(&["impala1", "impala2"]);
    assert_eq!(cluster.served(), ["impala1", "impala2"]);
    let streams = cluster.connect(24);
    let mut held = hold_sessions(&streams).unwrap();

    // One seed is enough to add one.
    cluster.coordinators[0].answer_backends("whole").unwrap();
    cluster.wait_for_all_up(&ALL);
    assert_eq!(cluster.served(), ALL);
    all_live(&mut held, "after a coordinator was added").unwrap();
    let backend = cluster.service().backends.remove(2);
    assert!(backend.discovered, "{backend:?}");
    assert_eq!(backend.listed_by, [cluster.seeds()[0].seed.clone()]);
    let table = cluster.balancer.lb_ctl(&["status"]).unwrap().stdout;
    assert!(table.contains("discovered: impala1, impala2, impala3"), "{table}");
    assert!(table.contains(":25000: lists 3 coordinators"), "{table}");

    // Both are needed to remove one. Its connections stay.
    let more = cluster.connect(24);
    held.extend(hold_sessions(&more).unwrap());
    assert!(held.iter().any(|(_, home)| home == "impala3"));
    cluster.seeds_answer("without=impala3");
    cluster.wait_for("impala3 to drain", |backends| {
        backends
            .iter()
            .any(|it| it.name == "impala3" && it.admin == "draining")
    });
    assert_eq!(cluster.served(), ["impala1", "impala2"]);
    all_live(&mut held, "after a coordinator was removed").unwrap();
    let log = cluster.balancer.daemon().unwrap().output().unwrap();
    for words in [
        "discovered",
        "no longer discovered",
        "not listed 3 times in a row by",
    ] {
        assert!(
            log.lines()
                .any(|line| line.contains(words) && line.contains("impala3")),
            "no line with {words:?} in\n{log}"
        );
    }

    // It is back before they have ended, and is the one that it was.
    cluster.seeds_answer("whole");
    cluster.wait_for_all_up(&ALL);
    assert_eq!(cluster.served(), ALL);
    all_live(&mut held, "after the coordinator came back").unwrap();
}

#[test]
fn a_coordinator_for_which_there_is_no_room_is_refused_aloud_until_another_one_has_drained() {
    let mut cluster = Cluster::with("whole", |configuration| {
        let room = ("[datapath]\n", "[datapath]\nmax_backends = 2\n");
        // There slots settle, and make room, as soon as no connection is left.
        let translates = ("port = 21050\n", "port = 21050\nforward = \"nat\"\n");
        let keys = [room, translates].into_iter();
        keys.fold(configuration, |configuration, (part, replacement)| {
            configuration.with(part, replacement).unwrap()
        })
    });
    take_vips_off_backends(&cluster.lab).unwrap();
    cluster.wait_for_all_up(&["impala1", "impala2"]);
    let refused = cluster.service().discovery.unwrap().refused;
    assert!(
        refused.len() == 1
            && refused[0].name == "impala3"
            && refused[0].reason.contains("datapath.max_backends"),
        "{refused:?}"
    );
    let table = cluster.balancer.lb_ctl(&["status"]).unwrap().stdout;
    assert!(table.contains("NOT USED: impala3"), "{table}");
    let daemon = cluster.balancer.daemon().unwrap();
    let line = daemon
        .wait_for_line("a discovered coordinator cannot be used", PATIENCE)
        .unwrap();
    assert!(line.contains("impala3"), "{line}");

    // It takes two passes over the records, ten seconds apart, until the one that leaves has made room.
    cluster.seeds_answer("without=impala2");
    let daemon = cluster.balancer.daemon().unwrap();
    let line = daemon
        .wait_for_line("drained: nothing goes to this backend", 3 * PATIENCE)
        .unwrap();
    assert!(line.contains("impala2"), "{line}");
    cluster.wait_for_all_up(&["impala1", "impala3"]);
    assert_eq!(cluster.served(), ["impala1", "impala3"]);
}

#[test]
fn a_coordinator_that_is_quiescing_on_the_pages_drains() {
    let mut cluster = Cluster::new("whole");
    cluster.wait_for_all_up(&ALL);
    let streams = cluster.connect(24);
    let mut held = hold_sessions(&streams).unwrap();
    cluster.coordinators[1]
        .answer_backends("quiescing=impala3")
        .unwrap();
    cluster.wait_for("impala3 to be quiescing", |backends| {
        let backend = &backends[2];
        backend.health == "quiescing" && backend.slots == 0 && backend.health_cause.contains("as listed by")
    });
    assert_eq!(cluster.served(), ["impala1", "impala2"]);
    all_live(&mut held, "while their coordinator is quiescing").unwrap();
    let line = cluster
        .balancer
        .daemon()
        .unwrap()
        .wait_for_line("a coordinator is quiescing", PATIENCE)
        .unwrap();
    assert!(line.contains("cause="), "{line}");
    cluster.seeds_answer("whole");
    cluster.wait_for_all_up(&ALL);
    assert_eq!(cluster.served(), ALL);
    all_live(&mut held, "after the shutdown was called off").unwrap();
}

#[test]
fn a_coordinator_that_was_restarted_serves_although_the_last_page_has_it_quiescing() {
    let cluster = Cluster::with("whole", |configuration| {
        let listen = format!("[http]\nlisten = [\"{AUTHORITY}\"]\n\n[api]");
        configuration.with("[api]", &listen).unwrap()
    });
    cluster.wait_for_all_up(&ALL);
    let changes = |health: &str| {
        let page = cluster
            .balancer
            .host()
            .enter(|| request_blocking(Method::GET, AUTHORITY, "/metrics", PATIENCE));
        let series = format!(
            "lb_backend_health_changes_total{{backend=\"impala3\",health=\"{health}\",service=\"impala\"}} "
        );
        let body = page.unwrap().unwrap().body;
        let value = body.lines().find_map(|line| line.strip_prefix(&series));
        value.expect("a sample").parse::<u32>().unwrap()
    };
    let up = changes("up");
    cluster.seeds_answer("quiescing=impala3");
    cluster.wait_for("impala3 to be quiescing", |backends| {
        backends[2].health == "quiescing" && backends[2].slots == 0
    });
    wait_until("that change in the metrics", PATIENCE, || {
        (changes("quiescing") == 1).then_some(()).ok_or("not counted")
    })
    .unwrap();
    cluster.seeds_answer("unavailable");
    wait_until("both seeds to fail", PATIENCE, || {
        let seeds = cluster.seeds();
        let fails = |seed: &SeedStatus| seed.ok == Some(false);
        if seeds.iter().all(fails) {
            Ok(())
        } else {
            Err(format!("{seeds:?}"))
        }
    })
    .unwrap();
    Cluster::wait_for_answers(2);
    assert_eq!(
        cluster.service().backends[2].health,
        "quiescing",
        "the last word counts"
    );

    cluster.coordinators[2].switch("restart").unwrap();
    cluster.wait_for_all_up(&ALL);
    assert_eq!(cluster.served(), ALL);
    // Each failure to read a page has the last one count again.
    Cluster::wait_for_answers(3);
    cluster.wait_for_all_up(&ALL);
    wait_until("the way back in the metrics", PATIENCE, || {
        let changes = (changes("quiescing"), changes("up") - up);
        if changes == (1, 1) {
            Ok(())
        } else {
            Err(format!("{changes:?}"))
        }
    })
    .unwrap();
}

#[test]
fn a_backend_that_is_drained_stays_so_under_another_name() {
    let mut cluster = Cluster::new("whole");
    cluster.wait_for_all_up(&ALL);
    let streams = cluster.connect(24);
    let mut held = hold_sessions(&streams).unwrap();
    cluster.succeed(&["drain", "impala3", "--deadline", "1h"]);
    cluster.seeds_answer("renamed=impala3,coordinator3");
    let is_drained = |backends: &[BackendStatus]| {
        let backend = backends.iter().find(|it| it.name == "coordinator3");
        backend
            .is_some_and(|it| it.admin == "draining" && it.discovered && it.health == "up" && it.slots == 0)
    };
    cluster.wait_for("the other name", is_drained);
    assert_eq!(cluster.served(), ["impala1", "impala2"]);
    all_live(&mut held, "after their coordinator was renamed").unwrap();
    // And that is kept.
    cluster.balancer.daemon().unwrap().kill().unwrap();
    cluster.balancer.run(&[]).unwrap();
    cluster.wait_for("the other name after a restart", is_drained);
    assert_eq!(cluster.served(), ["impala1", "impala2"]);
    cluster.succeed(&["undrain", "coordinator3"]);
    cluster.wait_for("the coordinator to serve", |backends| {
        backends
            .iter()
            .any(|it| it.name == "coordinator3" && it.slots > 0)
    });
    all_live(&mut held, "after the drain was taken back").unwrap();
    // Connections that began under the old name follow what is decided about the new one.
    let backends = cluster.service().backends;
    let left = backends.iter().find(|it| it.name == "impala3");
    let left = left.expect("its connections live");
    assert_eq!((left.admin.as_str(), left.deadline_seconds), ("draining", None));
    let homes: Vec<String> = held.into_iter().map(|(_, home)| home).collect();
    cluster.succeed(&["disable", "coordinator3", "--wait"]);
    let resets = count_resets(&streams, &homes, "impala3").unwrap();
    assert!(resets > 0, "{homes:?}");
}

#[test]
fn members_that_get_no_connections_are_members_after_a_restart_that_can_read_no_page() {
    let mut cluster = Cluster::new("whole");
    cluster.wait_for_all_up(&ALL);
    let streams = cluster.connect(24);
    let mut held = hold_sessions(&streams).unwrap();
    cluster.succeed(&["drain", "impala3"]);
    // Its sessions live on: it is only unwell.
    cluster.coordinators[1].switch("not-ready").unwrap();
    cluster.wait_for("impala2 to be down", |backends| {
        backends[1].health == "down" && backends[1].slots == 0
    });
    cluster.seeds_answer("unavailable");
    cluster.balancer.daemon().unwrap().kill().unwrap();
    cluster.balancer.run(&[]).unwrap();
    let known = |backends: &[BackendStatus]| {
        let known: Vec<(&str, &str, bool)> = backends
            .iter()
            .map(|it| (it.name.as_str(), it.admin.as_str(), it.discovered))
            .collect();
        known
            == [
                ("impala1", "enabled", true),
                ("impala2", "enabled", true),
                ("impala3", "draining", true),
            ]
    };
    let backends = cluster.service().backends;
    assert!(known(&backends), "{backends:?}");
    assert_eq!(cluster.served(), ["impala1"]);
    all_live(&mut held, "after the restart").unwrap();
    // They are checked, and serve once they may.
    cluster.coordinators[1].switch("serve").unwrap();
    cluster.wait_for("impala2 to be up", |backends| {
        known(backends) && backends[1].health == "up" && backends[1].slots > 0 && backends[2].slots == 0
    });
    cluster.succeed(&["undrain", "impala3"]);
    cluster.wait_for_all_up(&ALL);
    assert_eq!(cluster.served(), ALL);
    all_live(&mut held, "with all members").unwrap();
}

#[test]
fn pages_that_cannot_be_read_change_nothing_not_even_when_the_daemon_is_killed_meanwhile() {
    let mut cluster = Cluster::new("whole");
    cluster.wait_for_all_up(&ALL);
    let streams = cluster.connect(24);
    let mut held = hold_sessions(&streams).unwrap();
    for (how, detail) in [
        ("garbage", "found something else"),
        ("huge", "found a longer one"),
        ("dripping", "no complete answer within"),
        ("unavailable", "found 503"),
        ("mute", "no complete answer within"),
    ] {
        cluster.seeds_answer(how);
        wait_until(how, PATIENCE, || {
            let seeds = cluster.seeds();
            let as_expected = |seed: &SeedStatus| seed.ok == Some(false) && seed.detail.contains(detail);
            if seeds.iter().all(as_expected) {
                Ok(())
            } else {
                Err(format!("{seeds:?}"))
            }
        })
        .unwrap();
        // Longer than it takes to remove somebody.
        Cluster::wait_for_answers(4);
        cluster.wait_for_all_up(&ALL);
        assert_eq!(cluster.served(), ALL, "{how}");
        all_live(&mut held, how).unwrap();
    }

    cluster.balancer.daemon().unwrap().kill().unwrap();
    all_live(&mut held, "without a daemon").unwrap();
    cluster.balancer.run(&[]).unwrap();
    let names: Vec<String> = cluster.service().backends.into_iter().map(|it| it.name).collect();
    assert_eq!(names, ALL, "whoever served goes on");
    assert_eq!(cluster.served(), ALL);
    all_live(&mut held, "after a restart that could read no page").unwrap();
    assert!(
        cluster
            .seeds()
            .iter()
            .all(|seed| seed.last_page_seconds_ago.is_none())
    );
    Cluster::wait_for_answers(4);
    cluster.wait_for_all_up(&ALL);

    cluster.seeds_answer("whole");
    wait_until("the pages", PATIENCE, || {
        let seeds = cluster.seeds();
        if seeds.iter().all(|seed| seed.ok == Some(true)) {
            Ok(())
        } else {
            Err(format!("{seeds:?}"))
        }
    })
    .unwrap();
    cluster.wait_for_all_up(&ALL);
    all_live(&mut held, "with pages again").unwrap();
}

#[test]
fn backends_of_the_file_and_discovered_ones_are_one_service() {
    let mut cluster = Cluster::new("whole");
    cluster.wait_for_all_up(&ALL);
    let streams = cluster.connect(24);
    let mut held = hold_sessions(&streams).unwrap();
    // The file has the second one under its own name and weight: there it is no longer discovered.
    let second = cluster.coordinators[1].address;
    let file = configuration(&cluster.lab, &[("big", second.into(), 3)]);
    cluster.balancer.reconfigure(file).unwrap();
    let output = cluster.balancer.lb_ctl(&["reload"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    cluster.wait_for("the file to win", |backends| {
        let enabled: Vec<&BackendStatus> = backends.iter().filter(|it| it.admin == "enabled").collect();
        let shown: Vec<(&str, u32, bool)> = enabled
            .iter()
            .map(|it| (it.name.as_str(), it.weight, it.discovered))
            .collect();
        shown == [("big", 3, false), ("impala1", 1, true), ("impala3", 1, true)]
            && enabled.iter().all(|it| it.slots > 0 && it.listed_by.len() == 2)
    });
    assert_eq!(cluster.served(), ALL);
    all_live(&mut held, "after the file took one over").unwrap();

    // Without discovery only the file counts; with it again, nobody has to wait for pages.
    let address = |number: usize| cluster.coordinators[number].address.into();
    let file = Configuration::of(&cluster.lab, &cluster.lab.balancers()[0])
        .service(
            "impala",
            cluster.lab.vips()[0].v4.into(),
            &[
                ("impala1", address(0), 1),
                ("impala2", address(1), 1),
                ("impala3", address(2), 1),
            ],
        )
        .with("port = 21050\n", &format!("port = 21050\n{CHECK}"))
        .unwrap();
    cluster.balancer.reconfigure(file).unwrap();
    let output = cluster.balancer.lb_ctl(&["reload"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    cluster.wait_for("the file alone", |backends| {
        let enabled: Vec<&BackendStatus> = backends.iter().filter(|it| it.admin == "enabled").collect();
        enabled.len() == 3 && enabled.iter().all(|it| !it.discovered && it.slots > 0)
    });
    cluster.seeds_answer("unavailable");
    cluster
        .balancer
        .reconfigure(configuration(&cluster.lab, &[]))
        .unwrap();
    let output = cluster.balancer.lb_ctl(&["reload"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(cluster.served(), ALL);
    cluster.wait_for("discovery to have taken over", |backends| {
        let discovered = backends.iter().filter(|it| it.discovered && it.slots > 0);
        discovered.count() == 3
    });
    all_live(&mut held, "after all backends have left the file").unwrap();
}
