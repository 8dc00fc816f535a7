//! Texts that are no configuration at all, keys that are unknown or missing, and values of the wrong
//! type: with the exact lines that an operator reads.

use super::{check_refusals, refuse};

#[test]
fn syntax() {
    check_refusals(&[
        (
            &[4],
            "name = \"impala",
            "4: TOML: expected a valid TOML document, found: invalid basic string, expected `\"`; correct the syntax",
        ),
        (
            &[4],
            "name = ",
            "4: TOML: expected a valid TOML document, found: string values must be quoted, expected literal string; correct the syntax",
        ),
        (
            &[4],
            "name \"impala\"",
            "4: TOML: expected a valid TOML document, found: key with no value, expected `=`; correct the syntax",
        ),
        (
            &[4],
            "name = \"impala\"\nname = \"impala\"",
            "5: TOML: expected a valid TOML document, found: duplicate key at \"name\"; correct the syntax",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\n[datapath]",
            "3: TOML: expected a valid TOML document, found: duplicate key at \"datapath\"; correct the syntax",
        ),
        (
            &[3],
            "[service]\n[[service]]",
            "4: TOML: expected a valid TOML document, found: duplicate key at \"service\"; correct the syntax",
        ),
        (
            &[6],
            "port = 0x",
            "6: service[impala].port: expected an integer from 1 to 65535, found the integer 0x; write the port of the service, 21050 for HiveServer2",
        ),
        (
            &[6],
            "port = 021050",
            "6: TOML: expected a valid TOML document, found: unexpected leading zero, expected nothing at \"0\"; correct the syntax",
        ),
        (
            &[6],
            "port = \u{0}",
            "6: TOML: expected a valid TOML document, found: string values must be quoted, expected literal string at \"\\0\"; correct the syntax",
        ),
    ]);
}

#[test]
fn wrong_types() {
    check_refusals(&[
        (
            &[2],
            "interfaces = \"eth0\"",
            "2: datapath.interfaces: expected an array that is not empty, found \"eth0\"; write [\"eth0\"]",
        ),
        (
            &[2],
            "interfaces = [\n  1.5\n]",
            "3: datapath.interfaces[#1]: expected an interface name as a string, found the float 1.5; write it in quotes",
        ),
        (
            &[1, 2],
            "datapath = true",
            "1: datapath: expected a table, found the boolean true; write [datapath]",
        ),
        (
            &[1, 2],
            "[[datapath]]",
            "1: datapath: expected a table, found an array; write [datapath]",
        ),
        (
            &[3],
            "[service]",
            "3: service: expected an array of tables, found a table; write [[service]]",
        ),
        (
            &[7],
            "[service.backend]",
            "7: service[impala].backend: expected an array of tables, found a table; write [[service.backend]]",
        ),
        (
            &[7, 8, 9],
            "backend = [\"impala1\"]",
            "7: service[impala].backend[#1]: expected a table, found \"impala1\"; write [[service.backend]]",
        ),
        (
            &[4],
            "name = 1979-05-27",
            "4: service[#1].name: expected a name as a string, found the date-time 1979-05-27; write it in quotes",
        ),
        (
            &[5],
            "vip = [\"192.0.2.10\"]",
            "5: service[impala].vip: expected an IP address as a string, found an array; write it in quotes",
        ),
        (
            &[6],
            "port = \"21050\"",
            "6: service[impala].port: expected an integer from 1 to 65535, found \"21050\"; remove the quotes",
        ),
        (
            &[6],
            "port = \"https\"",
            "6: service[impala].port: expected an integer from 1 to 65535, found \"https\"; write the port of the service, 21050 for HiveServer2",
        ),
        (
            &[6],
            "port = 21050.0",
            "6: service[impala].port: expected an integer from 1 to 65535, found the float 21050.0; write the port of the service, 21050 for HiveServer2",
        ),
        (
            &[6],
            "port = { tcp = 21050 }",
            "6: service[impala].port: expected an integer from 1 to 65535, found a table; write the port of the service, 21050 for HiveServer2",
        ),
        (
            &[6],
            "port = 21050\nforward = 1",
            "7: service[impala].forward: expected one of \"dsr\", \"ipip\", \"nat\" as a string, found the integer 1; write it in quotes",
        ),
        (
            &[6],
            "port = 21050\ncheck = \"none\"",
            "7: service[impala].check: expected a table, found \"none\"; write [service.check]",
        ),
        (
            &[9],
            "address = \"192.0.2.21\"\nweight = true",
            "10: service[impala].backend[impala1].weight: expected an integer from 0 to 1000, found the boolean true; weights are shares, relative to the other backends of the service",
        ),
    ]);
}

#[test]
fn unknown_keys() {
    check_refusals(&[
        (
            &[1],
            "maxconn = 2000\n[datapath]",
            "1: maxconn: expected a key of the top level, found \"maxconn\"; remove it or use one of node, datapath, api, http, service, vrrp, peer",
        ),
        (
            &[1],
            "[datapaht]\n[datapath]",
            "1: datapaht: expected a key of the top level, found \"datapaht\"; did you mean `datapath`?",
        ),
        (
            &[2],
            "interfaces = [\"eth0\"]\ninterface = \"eth0\"",
            "3: datapath.interface: expected a key of [datapath], found \"interface\"; did you mean `interfaces`?",
        ),
        (
            &[6],
            "port = 21050\nblance = \"hash\"",
            "7: service[impala].blance: expected a key of [[service]], found \"blance\"; did you mean `balance`?",
        ),
        (
            &[6],
            "port = 21050\nchecks.type = \"none\"",
            "7: service[impala].checks: expected a key of [[service]], found \"checks\"; did you mean `check`?",
        ),
        (
            &[6],
            "port = 21050\ncheck = { kind = \"none\" }",
            "7: service[impala].check.kind: expected a key of [service.check], found \"kind\"; remove it or use one of type, interval, fast_interval, timeout, rise, fall, source, port, web_port, path, auth, tls, web_tls, ca_file, server_name, verify, metric",
        ),
        (
            &[9],
            "address = \"192.0.2.21\"\nwieght = 1\nsend_proxy = true",
            "10: service[impala].backend[impala1].wieght: expected a key of [[service.backend]], found \"wieght\"; did you mean `weight`?\n\
             11: service[impala].backend[impala1].send_proxy: expected a key of [[service.backend]], found \"send_proxy\"; remove it or use one of name, address, port, weight, tier",
        ),
        (
            &[9],
            "address = \"192.0.2.21\"\n\"a\\nb\" = 1",
            "10: service[impala].backend[impala1].\"a\\n\
             b\": expected a key of [[service.backend]], found \"a\\n\
             b\"; remove it or use one of name, address, port, weight, tier",
        ),
    ]);
}

#[test]
fn missing_keys() {
    check_refusals(&[
        (
            &[1, 2],
            "",
            "1: datapath.interfaces: expected this key, found none; add `interfaces = [\"eth0\"]`",
        ),
        (
            &[2],
            "",
            "1: datapath.interfaces: expected this key, found none; add `interfaces = [\"eth0\"]`",
        ),
        (
            &[2],
            "interfaces = []",
            "2: datapath.interfaces: expected an array that is not empty, found an empty array; write [\"eth0\"]",
        ),
        (
            &[4],
            "",
            "3: service[#1].name: expected this key, found none; add `name = \"impala\"`",
        ),
        (
            &[5],
            "",
            "3: service[impala].vip: expected this key, found none; add `vip = \"192.0.2.10\"`",
        ),
        (
            &[6],
            "",
            "3: service[impala].port: expected this key, found none; add `port = 21050`",
        ),
        (
            &[8],
            "",
            "7: service[impala].backend[#1].name: expected this key, found none; add `name = \"impala1\"`",
        ),
        (
            &[9],
            "",
            "7: service[impala].backend[impala1].address: expected this key, found none; add `address = \"192.0.2.21\"`",
        ),
        (
            &[7, 8, 9],
            "",
            "3: service[impala].backend: expected at least one table, found none; add [[service.backend]]",
        ),
        (
            &[7, 8, 9],
            "backend = []",
            "3: service[impala].backend: expected at least one table, found none; add [[service.backend]]",
        ),
        (
            &[3, 4, 5, 6, 7, 8, 9],
            "",
            "1: service: expected at least one table, found none; add [[service]]",
        ),
    ]);
    assert_eq!(
        refuse(""),
        "lb.toml:1: datapath.interfaces: expected this key, found none; add `interfaces = [\"eth0\"]`\n\
         lb.toml:1: service: expected at least one table, found none; add [[service]]"
    );
}

#[test]
fn other_words() {
    check_refusals(&[(
        &[6],
        "port = 21050\nno_backend = \"refuse\"\nfailback = \"never\"",
        "7: service[impala].no_backend: expected one of \"reset\", \"drop\", found \"refuse\"; use one of \"reset\", \"drop\"\n\
             8: service[impala].failback: expected one of \"auto\", \"manual\", found \"never\"; use one of \"auto\", \"manual\"",
    )]);
}
