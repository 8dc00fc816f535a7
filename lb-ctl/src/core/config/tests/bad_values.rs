//! Values that cannot be meant, alone or together with others: with the exact lines that an operator reads.

use std::fmt::Write as _;

use super::{MINIMAL, accept, check_refusals, host, refuse};
use crate::core::config::{HostDefaults, parse};

#[test]
fn interfaces_that_are_too_many() {
    check_refusals(&[
        (
            &[2],
            "interfaces = [\n  \"eth0\",\n  \"eth1\",\n  \"eth0\",\n]",
            "5: datapath.interfaces[#3]: expected each interface once, found \"eth0\" a second time (first on line 3); remove one",
        ),
        (
            &[2],
            "interfaces = [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\", \"h\",\n\"i\"]",
            "3: datapath.interfaces[#9]: expected at most 8 interfaces, found 9; keep those on which clients and backends are",
        ),
    ]);
}

#[test]
fn directories_that_depend_on_where_the_daemon_is_started() {
    check_refusals(&[(
        &[1],
        "node.state_dir = \"lib\"\n[datapath]",
        "1: node.state_dir: expected the absolute path of a directory, of at most 3000 bytes, found \"lib\"; leave the key out to get \"/var/lib/lb-ctl\"",
    )]);
}

#[test]
fn unusable_addresses_to_listen_on() {
    check_refusals(&[(
        &[1],
        "http.listen = [\"localhost:80\", \"10.0.0.1:0\", 9410]\n[datapath]",
        "1: http.listen[#1]: expected an IP address and a port, found \"localhost:80\"; write \"127.0.0.1:9410\" or \"[::1]:9410\"; with 0.0.0.0 or [::] everybody can read it who can reach the host\n\
             1: http.listen[#2]: expected an IP address and a port, found \"10.0.0.1:0\"; write \"127.0.0.1:9410\" or \"[::1]:9410\"; with 0.0.0.0 or [::] everybody can read it who can reach the host\n\
             1: http.listen[#3]: expected an address and port as a string, found the integer 9410; write it in quotes",
    )]);
}

#[test]
fn unusable_values_of_node_api_and_datapath() {
    check_refusals(&[
        (
            &[1],
            "node.name = \"my balancer\"\n[datapath]",
            "1: node.name: expected a name of 1 to 63 letters, digits, '.', '_' and '-', the first a letter or a digit, found \"my balancer\"; choose a name that is easy to type",
        ),
        (
            &[1],
            "node.name = \"\"\n[datapath]",
            "1: node.name: expected a name of 1 to 63 letters, digits, '.', '_' and '-', the first a letter or a digit, found \"\"; choose a name that is easy to type",
        ),
        (
            &[1],
            "api.socket = \"lb.sock\"\n[datapath]",
            "1: api.socket: expected an absolute path of at most 107 bytes, found \"lb.sock\"; choose one like \"/run/lb-ctl/api.sock\"",
        ),
        (
            &[2],
            "interfaces = [\"averyveryverylongname\"]",
            "2: datapath.interfaces[#1]: expected an interface name of 1 to 15 bytes without spaces, '/' and ':', found \"averyveryverylongname\"; `ip link` lists the interfaces",
        ),
        (
            &[2],
            "interfaces = [\"..\"]",
            "2: datapath.interfaces[#1]: expected an interface name of 1 to 15 bytes without spaces, '/' and ':', found \"..\"; `ip link` lists the interfaces",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nmode = \"nativ\"",
            "3: datapath.mode: expected one of \"auto\", \"native\", \"generic\", found \"nativ\"; did you mean \"native\"?",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nmode = \"offload\"",
            "3: datapath.mode: expected one of \"auto\", \"native\", \"generic\", found \"offload\"; use one of \"auto\", \"native\", \"generic\"",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nhash_seed = -1",
            "3: datapath.hash_seed: expected an integer from 0 to 18446744073709551615 or a string like \"0x1b873593cc9e2d51\", found the integer -1; give both balancers the same",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nhash_seed = \"0x1ffffffffffffffff\"",
            "3: datapath.hash_seed: expected an integer from 0 to 18446744073709551615 or a string like \"0x1b873593cc9e2d51\", found \"0x1ffffffffffffffff\"; give both balancers the same",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nhash_seed = \"0x+1\"",
            "3: datapath.hash_seed: expected an integer from 0 to 18446744073709551615 or a string like \"0x1b873593cc9e2d51\", found \"0x+1\"; give both balancers the same",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nhash_seed = \"0x\"",
            "3: datapath.hash_seed: expected an integer from 0 to 18446744073709551615 or a string like \"0x1b873593cc9e2d51\", found \"0x\"; give both balancers the same",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nhash_seed = \"1234\"",
            "3: datapath.hash_seed: expected an integer from 0 to 18446744073709551615 or a string like \"0x1b873593cc9e2d51\", found \"1234\"; give both balancers the same",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nslots_per_service = 65536",
            "3: datapath.slots_per_service: expected a prime number, found 65536; use 65521 or 65537",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nslots_per_service = 252",
            "3: datapath.slots_per_service: expected a prime number, found 252; use 251 or 257",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nslots_per_service = 1048572",
            "3: datapath.slots_per_service: expected a prime number, found 1048572; use 1048571 or 1048573",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nslots_per_service = 241",
            "3: datapath.slots_per_service: expected an integer from 251 to 1048573, found the integer 241; leave the key out to get 65537",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nslots_per_service = 1048583",
            "3: datapath.slots_per_service: expected an integer from 251 to 1048573, found the integer 1048583; leave the key out to get 65537",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nmax_services = 0",
            "3: datapath.max_services: expected an integer from 1 to 4096, found the integer 0; leave the key out to get 64",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nmax_backends = 65536",
            "3: datapath.max_backends: expected an integer from 1 to 65535, found the integer 65536; leave the key out to get 1024",
        ),
    ]);
}

#[test]
fn unusable_limits_of_flows() {
    check_refusals(&[
        (
            &[2],
            "interfaces = [\"eth0\"]\nmax_flows = 100",
            "3: datapath.max_flows: expected an integer from 1024 to 16777216, found the integer 100; leave the key out to get 262144",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nflow_idle_timeout = 3600",
            "3: datapath.flow_idle_timeout: expected a duration from \"1m\" to \"18h\", found the integer 3600; write a whole number and a unit in quotes: ms, s, m, h or d",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nflow_idle_timeout = \"1h30m\"",
            "3: datapath.flow_idle_timeout: expected a duration from \"1m\" to \"18h\", found \"1h30m\"; write a whole number and one unit: ms, s, m, h or d",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nflow_idle_timeout = \"1d\"",
            "3: datapath.flow_idle_timeout: expected a duration from \"1m\" to \"18h\", found \"1d\"; leave the key out to get \"6h\"",
        ),
    ]);
}

#[test]
fn unusable_values_of_services_and_backends() {
    check_refusals(&[
        (
            &[4],
            "name = \"im pala\"",
            "4: service[#1].name: expected a name of 1 to 63 letters, digits, '.', '_' and '-', the first a letter or a digit, found \"im pala\"; choose a name that is easy to type",
        ),
        (
            &[4],
            "name = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
            "4: service[#1].name: expected a name of 1 to 63 letters, digits, '.', '_' and '-', the first a letter or a digit, found \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"…; choose a name that is easy to type",
        ),
        (
            &[5],
            "vip = \"impala.example\"",
            "5: service[impala].vip: expected an IP address, found \"impala.example\"; write the numeric address, names are not looked up",
        ),
        (
            &[5],
            "vip = \"192.0.2.10/32\"",
            "5: service[impala].vip: expected an IP address, found \"192.0.2.10/32\"; write the numeric address, names are not looked up",
        ),
        (
            &[5],
            "vip = \"0.0.0.0\"",
            "5: service[impala].vip: expected the address of one host, found the unspecified address, \"0.0.0.0\"; use an address of your network",
        ),
        (
            &[5],
            "vip = \"0.1.2.3\"",
            "5: service[impala].vip: expected the address of one host, found an address of \"this network\", \"0.1.2.3\"; use an address of your network",
        ),
        (
            &[5],
            "vip = \"127.0.0.1\"",
            "5: service[impala].vip: expected the address of one host, found a loopback address, \"127.0.0.1\"; use an address of your network",
        ),
        (
            &[5],
            "vip = \"224.0.0.18\"",
            "5: service[impala].vip: expected the address of one host, found a multicast address, \"224.0.0.18\"; use an address of your network",
        ),
        (
            &[5],
            "vip = \"255.255.255.255\"",
            "5: service[impala].vip: expected the address of one host, found the broadcast address, \"255.255.255.255\"; use an address of your network",
        ),
        (
            &[6],
            "port = 0",
            "6: service[impala].port: expected an integer from 1 to 65535, found the integer 0; write the port of the service, 21050 for HiveServer2",
        ),
        (
            &[6],
            "port = 65536",
            "6: service[impala].port: expected an integer from 1 to 65535, found the integer 65536; write the port of the service, 21050 for HiveServer2",
        ),
        (
            &[6],
            "port = 99999999999999999999999999999999999999999999",
            "6: service[impala].port: expected an integer from 1 to 65535, found the integer 99999999999999999999999999999999999999999999; write the port of the service, 21050 for HiveServer2",
        ),
        (
            &[6],
            "port = 21050\nforward = \"dnat\"",
            "7: service[impala].forward: expected one of \"dsr\", \"ipip\", \"nat\", found \"dnat\"; did you mean \"nat\"?",
        ),
        (
            &[6],
            "port = 21050\nforward = \"Dsr\"",
            "7: service[impala].forward: expected one of \"dsr\", \"ipip\", \"nat\", found \"Dsr\"; did you mean \"dsr\"?",
        ),
        (
            &[9],
            "address = \"127.0.0.1\"",
            "9: service[impala].backend[impala1].address: expected the address of one host, found a loopback address, \"127.0.0.1\"; use an address of your network",
        ),
        (
            &[9],
            "address = \"192.0.2.21\"\nweight = -1",
            "10: service[impala].backend[impala1].weight: expected an integer from 0 to 1000, found the integer -1; weights are shares, relative to the other backends of the service",
        ),
        (
            &[9],
            "address = \"192.0.2.21\"\nweight = 1001",
            "10: service[impala].backend[impala1].weight: expected an integer from 0 to 1000, found the integer 1001; weights are shares, relative to the other backends of the service",
        ),
        (
            &[9],
            "address = \"192.0.2.21\"\ntier = 256",
            "10: service[impala].backend[impala1].tier: expected an integer from 0 to 255, found the integer 256; leave the key out to get 0",
        ),
    ]);
}

#[test]
fn ipv6_addresses_that_are_no_hosts() {
    check_refusals(&[
        (
            &[5],
            "vip = \"fe80::10\"",
            "5: service[impala].vip: expected the address of one host, found a link-local address, \"fe80::10\"; use an address of your network",
        ),
        (
            &[5],
            "vip = \"::ffff:192.0.2.10\"",
            "5: service[impala].vip: expected the address of one host, found an IPv4 address in IPv6 form, \"::ffff:192.0.2.10\"; use an address of your network",
        ),
    ]);
}

#[test]
fn node_names_that_are_directories() {
    let expected = "lb.toml:2: node.name: expected a name of 1 to 63 letters, digits, '.', '_' and '-'";
    for name in [".", ".."] {
        let text = format!("[node]\nname = \"{name}\"\n{MINIMAL}");
        let found = refuse(&text);
        assert!(found.starts_with(expected), "{found}");
    }
}

/// One machine has an address of each family, under one name.
#[test]
fn both_families_of_a_machine_have_one_name() {
    let text = format!(
        "{MINIMAL}[[service]]\nname = \"impala6\"\nvip = \"2001:db8::10\"\nport = 21050\n\
         [[service.backend]]\nname = \"impala1\"\naddress = \"2001:db8::21\"\n"
    );
    let config = accept(&text);
    assert!(config.services[1].vip.is_ipv6() && config.services[1].backends[0].address.is_ipv6());
}

#[test]
fn conflicts() {
    let second = |name: &str, vip: &str, port: u16, backend: &str, address: &str| {
        format!(
            "address = \"192.0.2.21\"\n[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = {port}\n\
             [[service.backend]]\nname = \"{backend}\"\naddress = \"{address}\""
        )
    };
    let backend = |name: &str, address: &str| {
        format!("address = \"192.0.2.21\"\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"")
    };
    check_refusals(&[
        (
            &[9],
            &second("impala", "192.0.2.10", 28000, "impala1", "192.0.2.21"),
            "11: service[impala].name: expected a name that no other service has, found \"impala\" a second time (first on line 4); rename one",
        ),
        (
            &[9],
            &second("http", "192.0.2.10", 21050, "impala1", "192.0.2.21"),
            "13: service[http].port: expected a VIP and port that no other service has, found 192.0.2.10:21050 a second time (first on line 6); change one or join the two services",
        ),
        (
            &[9],
            &second("http", "192.0.2.10", 28000, "impala1", "192.0.2.22"),
            "16: service[http].backend[impala1].address: expected 192.0.2.21, the address of the backend \"impala1\" on line 9, found 192.0.2.22; a name means one machine in all services, so that a drain by name is clear: rename one or correct the address",
        ),
        (
            &[9],
            &second("http", "2001:db8::10", 21050, "impala1", "192.0.2.21"),
            "16: service[http].backend[impala1].address: expected an IPv6 address, like the VIP 2001:db8::10 on line 12, found 192.0.2.21; write the machine's address of that family, and make a second service for the other one",
        ),
        (
            &[9],
            "address = \"2001:db8::21\"",
            "9: service[impala].backend[impala1].address: expected an IPv4 address, like the VIP 192.0.2.10 on line 5, found 2001:db8::21; write the machine's address of that family, and make a second service for the other one",
        ),
        (
            &[9],
            &second("http", "192.0.2.21", 28000, "impala2", "192.0.2.22"),
            "9: service[impala].backend[impala1].address: expected the backend's own address, found 192.0.2.21, the VIP on line 12; write the address under which the balancer reaches the machine itself",
        ),
        (
            &[9],
            &second("http", "192.0.2.11", 28000, "impala2", "192.0.2.10"),
            "16: service[http].backend[impala2].address: expected the backend's own address, found 192.0.2.10, the VIP on line 5; write the address under which the balancer reaches the machine itself",
        ),
        (
            &[9],
            "address = \"192.0.2.10\"",
            "9: service[impala].backend[impala1].address: expected the backend's own address, found 192.0.2.10, the VIP on line 5; write the address under which the balancer reaches the machine itself",
        ),
        (
            &[9],
            &backend("impala1", "192.0.2.22"),
            "11: service[impala].backend[impala1].name: expected a name that no other backend of the service has, found \"impala1\" a second time (first on line 8); rename or remove one",
        ),
        (
            &[9],
            &backend("impala2", "192.0.2.21"),
            "12: service[impala].backend[impala2].address: expected an address that no other backend of the service has, found 192.0.2.21 a second time (first on line 9); change or remove one",
        ),
        (
            &[9],
            &backend("impala1", "192.0.2.21"),
            "11: service[impala].backend[impala1].name: expected a name that no other backend of the service has, found \"impala1\" a second time (first on line 8); rename or remove one\n\
             12: service[impala].backend[impala1].address: expected an address that no other backend of the service has, found 192.0.2.21 a second time (first on line 9); change or remove one",
        ),
        (
            &[9],
            "address = \"192.0.2.21\"\nport = 21000",
            "10: service[impala].backend[impala1].port: expected 21050, the service's port, found 21000; forward = \"dsr\" leaves the port in the packets as it is: remove the key",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nmax_services = 4096",
            "3: datapath.max_services: expected slot tables of at most 1024 MiB in all, found max_services 4096 × slots_per_service 65537 × 8 bytes = 2048 MiB; lower one of the two",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nslots_per_service = 1048573\nmax_services = 200",
            "4: datapath.max_services: expected slot tables of at most 1024 MiB in all, found max_services 200 × slots_per_service 1048573 × 8 bytes = 1599 MiB; lower one of the two",
        ),
    ]);
}

#[test]
fn outer_sources_of_tunnels() {
    check_refusals(&[
        (
            &[6, 7, 8, 9],
            "port = 21050\nforward = \"ipip\"\n[[service.backend]]\nname = \"a\"\naddress = \"198.18.7.7\"",
            "10: service[impala].backend[a].address: expected an address outside of 198.18.0.0/16, where tunnels pretend to come from, found 198.18.7.7; give datapath.ipip_source_ipv4 a network in which no host is",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nipip_source_ipv4 = \"198.18.0.0/15\"",
            "3: datapath.ipip_source_ipv4: expected a network of another size or family, found \"198.18.0.0/15\"; leave the key out, or write \"198.18.0.0/16\" in which no host is",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nipip_source_ipv4 = \"127.0.0.0/16\"",
            "3: datapath.ipip_source_ipv4: expected a network of hosts, found a loopback address, \"127.0.0.0/16\"; leave the key out, or write \"198.18.0.0/16\" in which no host is",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nipip_source_ipv6 = \"198.18.0.0/16\"",
            "3: datapath.ipip_source_ipv6: expected a network of another size or family, found \"198.18.0.0/16\"; leave the key out, or write a network of 64 to 96 bits like \"100::/64\" in which no host is",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\nipip_source_ipv6 = \"100::1/64\"",
            "3: datapath.ipip_source_ipv6: expected a network, found the address of one of its hosts; write 100::/64; leave the key out, or write a network of 64 to 96 bits like \"100::/64\" in which no host is",
        ),
    ]);
}

#[test]
fn tables_that_are_too_small() {
    let text = MINIMAL.to_owned()
        + "[[service]]\nname = \"http\"\nvip = \"192.0.2.10\"\nport = 28000\n[[service.backend]]\nname = \"impala1\"\n\
           address = \"192.0.2.21\"";
    let limited = |limits: &str| text.replace("[datapath]", &format!("[datapath]\n{limits}"));
    assert_eq!(
        refuse(&limited("max_services = 1")),
        "lb.toml:11: service[http]: expected no more services than datapath.max_services = 1, found 2; raise it"
    );
    assert_eq!(
        refuse(&limited("max_backends = 1")),
        "lb.toml:15: service[http].backend[impala1]: expected no more backends in all services than datapath.max_backends = 1, found 2; raise it"
    );
    accept(&limited("max_services = 2\nmax_backends = 2"));
}

#[test]
fn where_ports_are_translated_backends_may_share_an_address() {
    let backends = |ports: [u16; 2]| {
        let mut text = MINIMAL.replace("port = 21050", "port = 8006\nforward = \"nat\"");
        writeln!(text, "port = {}", ports[0]).unwrap();
        write!(
            text,
            "[[service.backend]]\nname = \"impala2\"\naddress = \"192.0.2.21\"\nport = {}\n",
            ports[1]
        )
        .unwrap();
        text
    };
    let config = accept(&backends([21050, 31050]));
    let ports: Vec<u16> = config.services[0].backends.iter().map(|it| it.port).collect();
    assert_eq!(ports, [21050, 31050]);
    assert_eq!(
        refuse(&backends([21050, 21050])),
        "lb.toml:14: service[impala].backend[impala2].address: expected an address and port that no other backend of the service has, found 192.0.2.21:21050 a second time (first on line 10); change or remove one"
    );
}

#[test]
fn more_backends_than_slots() {
    let mut text = MINIMAL.replace("[datapath]", "[datapath]\nslots_per_service = 251");
    for backend in 0..250 {
        write!(
            text,
            "[[service.backend]]\nname = \"b{backend}\"\naddress = \"198.51.100.{backend}\"\n"
        )
        .unwrap();
    }
    accept(&text);
    text.push_str("[[service.backend]]\nname = \"last\"\naddress = \"203.0.113.1\"\n");
    assert_eq!(
        refuse(&text),
        "lb.toml:761: service[impala].backend[last]: expected no more backends in a service than its 251 slots, found 252; raise datapath.slots_per_service"
    );
}

#[test]
fn a_host_name_that_is_no_name() {
    let host = HostDefaults {
        node_name: "local host".into(),
    };
    let errors = parse("lb.toml", MINIMAL, &host).expect_err("accepted");
    assert_eq!(
        errors.to_string(),
        "lb.toml:1: node.name: the host name is the default: expected a name of 1 to 63 letters, digits, '.', '_' and '-', the first a letter or a digit, found \"local host\"; choose a name that is easy to type"
    );
    assert!(parse("lb.toml", &format!("node.name = \"lb1\"\n{MINIMAL}"), &host).is_ok());
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_lines() {
    let text = r#"
[[service]]
port = 0
vip = "192.0.2.10"
name = "impala"
[[service.backend]]
address = "192.0.2.10"
name = "impala1"
weight = 1001
[[service]]
name = "impala"
vip = "192.0.2.10"
port = 28000
balance = "load"
[datapath]
interfaces = ["eth0", "eth0"]
mod = "auto"
[peer]
"#;
    let errors = parse("/etc/lb.toml", text, &host()).expect_err("accepted");
    assert_eq!(
        errors.to_string(),
        "/etc/lb.toml:3: service[impala].port: expected an integer from 1 to 65535, found the integer 0; write the port of the service, 21050 for HiveServer2\n\
         /etc/lb.toml:7: service[impala].backend[impala1].address: expected the backend's own address, found 192.0.2.10, the VIP on line 4; write the address under which the balancer reaches the machine itself\n\
         /etc/lb.toml:9: service[impala].backend[impala1].weight: expected an integer from 0 to 1000, found the integer 1001; weights are shares, relative to the other backends of the service\n\
         /etc/lb.toml:10: service[impala].backend: expected at least one table, found none; add [[service.backend]]\n\
         /etc/lb.toml:11: service[impala].name: expected a name that no other service has, found \"impala\" a second time (first on line 5); rename one\n\
         /etc/lb.toml:14: service[impala].balance: expected a check with type = \"impala\", which asks coordinators for their load, found type = \"none\"; write it into [service.check], or use \"hash\"\n\
         /etc/lb.toml:16: datapath.interfaces[#2]: expected each interface once, found \"eth0\" a second time (first on line 16); remove one\n\
         /etc/lb.toml:17: datapath.mod: expected a key of [datapath], found \"mod\"; did you mean `mode`?\n\
         /etc/lb.toml:18: peer: expected `listen`, `connect` or both, found neither: one of the two balancers must go to the other; add `listen = \"192.0.2.1:7000\"`, our address, and `connect = \"192.0.2.2:7000\"`, the other's\n\
         /etc/lb.toml:18: peer.key_file: expected this key, found none; add `key_file = \"/etc/lb-ctl/peer.key\"`"
    );
}

#[test]
fn unusable_affinity() {
    check_refusals(&[
        (
            &[6],
            "port = 21050\nforward = \"nat\"\naffinity = \"client\"",
            "8: service[impala].affinity: expected affinity = \"none\" in a service with forward = \"nat\", found \"client\", which does not yet work together with translation; remove the key, or use \"dsr\" or \"ipip\"",
        ),
        (
            &[6],
            "port = 21050\naffinity = \"source\"\naffinity_timeout = \"0s\"",
            "7: service[impala].affinity: expected one of \"none\", \"client\", found \"source\"; use one of \"none\", \"client\"\n\
             8: service[impala].affinity_timeout: expected a duration from \"1s\" to \"18h\", found \"0s\"; leave the key out to get \"15m\"",
        ),
        (
            &[6],
            "port = 21050\naffinity_timeout = \"15m\"",
            "7: service[impala].affinity_timeout: expected affinity = \"client\" in the same service, found \"none\", with which nothing is timed; add it, or remove the key",
        ),
    ]);
}

#[test]
fn unusable_prefixes() {
    check_refusals(&[
        (
            &[6],
            "port = 21050\nallow = []",
            "7: service[impala].allow: expected an array that is not empty, found an empty array; leave the key out to allow everybody",
        ),
        (
            &[6],
            "port = 21050\nallow = [\"10.1.0.0/16\", \"10.0.0.1/8\", 10]",
            "7: service[impala].allow[#2]: expected a prefix, found \"10.0.0.1/8\", which has bits behind its first 8; write \"10.0.0.0/8\", or \"10.0.0.1/32\" for the one address\n\
             7: service[impala].allow[#3]: expected a prefix as a string, found the integer 10; write it in quotes",
        ),
        (
            &[6],
            "port = 21050\nallow = [\"10.0.0.0/8\", \"2001:db8::/32\", \"10.0.0.0/8\"]",
            "7: service[impala].allow[#2]: expected an IPv4 prefix, like the VIP 192.0.2.10 on line 5, found 2001:db8::/32; clients of the other family need a service of their own\n\
             7: service[impala].allow[#3]: expected each prefix once, found 10.0.0.0/8 a second time (first on line 7); remove one",
        ),
    ]);
}

#[test]
fn more_prefixes_than_there_is_room_for_are_refused() {
    let prefixes: Vec<String> = (0..=65_536u32)
        .map(|number| {
            format!(
                "\"{}/24\"",
                std::net::Ipv4Addr::from_bits((10 << 24) + (number << 8))
            )
        })
        .collect();
    let text = |count: usize| {
        MINIMAL.replace(
            "port = 21050\n",
            &format!("port = 21050\nallow = [{}]\n", prefixes[..count].join(",")),
        )
    };
    assert!(parse("lb.toml", &text(65_536), &host()).is_ok());
    let errors = parse("lb.toml", &text(65_537), &host()).expect_err("accepted");
    assert_eq!(
        errors.to_string(),
        "lb.toml:7: service[impala].allow[#65537]: expected no more than 65536 prefixes in all services, found more; join some to shorter ones"
    );
}
