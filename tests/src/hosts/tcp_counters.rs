//! What the kernel has counted about TCP in a namespace, IPv4 and IPv6 together.

use std::fs;
use std::ops::Sub;

use anyhow::{Context as _, Result};

use crate::hosts::namespace::Namespace;

/// Counters of `Tcp` in /proc/net/snmp (RFC 4022, and `InCsumErrors` of Linux).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// `InSegs`: segments received, wrong ones too.
    pub received: u64,
    /// `OutSegs`: segments sent, without retransmissions.
    pub sent: u64,
    /// `RetransSegs`: segments sent again.
    pub retransmitted: u64,
    /// `InCsumErrors`: segments received with a wrong checksum.
    pub checksum_errors: u64,
}

impl TcpCounters {
    /// The counters of a namespace at this moment.
    pub fn of(namespace: &Namespace) -> Result<Self> {
        // Not /proc/net, which shows the namespace of the process's first thread.
        let snmp = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
        Self::parse(&snmp.context("cannot read /proc/thread-self/net/snmp")?)
    }

    /// Each protocol has a line with names and a line with values.
    fn parse(snmp: &str) -> Result<Self> {
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = lines
            .next()
            .zip(lines.next())
            .context("expected two lines `Tcp:` in /proc/net/snmp")?;
        let value = |wanted: &str| -> Result<u64> {
            let mut fields = names.split_whitespace().zip(values.split_whitespace());
            let (_, value) = fields
                .find(|(name, _)| *name == wanted)
                .with_context(|| format!("expected {wanted} among {names}"))?;
            value
                .parse()
                .with_context(|| format!("{wanted} is {value}, expected a number"))
        };
        Ok(Self {
            received: value("InSegs")?,
            sent: value("OutSegs")?,
            retransmitted: value("RetransSegs")?,
            checksum_errors: value("InCsumErrors")?,
        })
    }
}

/// What has been counted since an earlier time.
impl Sub for TcpCounters {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            received: self.received.wrapping_sub(earlier.received),
            sent: self.sent.wrapping_sub(earlier.sent),
            retransmitted: self.retransmitted.wrapping_sub(earlier.retransmitted),
            checksum_errors: self.checksum_errors.wrapping_sub(earlier.checksum_errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_names() {
        let snmp = "Ip: Forwarding InReceives\nIp: 2 7\n\
            Tcp: RtoAlgorithm MaxConn InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n\
            Tcp: 1 -1 10 20 3 0 1 2\nUdp: InDatagrams\nUdp: 0\n";
        let counters = TcpCounters {
            received: 10,
            sent: 20,
            retransmitted: 3,
            checksum_errors: 2,
        };
        assert_eq!(TcpCounters::parse(snmp).unwrap(), counters);
        assert_eq!(counters - counters, TcpCounters::default());
        let error = TcpCounters::parse("Tcp: InSegs\nTcp: 1\n").unwrap_err();
        assert!(error.to_string().contains("OutSegs"), "{error}");
        assert!(TcpCounters::parse("Ip: Forwarding\n").is_err());
    }
}
