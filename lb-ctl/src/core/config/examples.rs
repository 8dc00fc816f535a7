//! Configurations for tests elsewhere.

use super::{Config, HostDefaults, parse};

/// Two interfaces, a service, and these instances of VRRP.
pub(crate) fn with_vrrp(instances: &str) -> Config {
    let text = format!(
        "[datapath]\ninterfaces = [\"eth0\", \"eth1\"]\n[[service]]\nname = \"s\"\nvip = \"10.0.0.99\"\nport = 1\n\
         [[service.backend]]\nname = \"b\"\naddress = \"10.0.0.1\"\n{instances}"
    );
    let host = HostDefaults {
        node_name: "lb".into(),
    };
    parse("lb.toml", &text, &host).expect("a configuration without mistakes")
}
