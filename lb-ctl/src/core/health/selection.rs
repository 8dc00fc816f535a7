//! Who serves: the tier that is active, and who in it may be taken out.
//!
//! Both follow from the health of all backends of a service together, because the health of a single one cannot tell
//! whether it is worse to use it or to do without it.

use std::{collections::BTreeSet, fmt};

/// A share of the whole, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fraction {
    thousandths: u16,
}

impl Fraction {
    /// Nothing.
    pub const ZERO: Self = Self { thousandths: 0 };
    /// The half.
    pub const HALF: Self = Self { thousandths: 500 };

    /// That many thousandths, at most all.
    pub fn from_thousandths(thousandths: u16) -> Self {
        Self {
            thousandths: thousandths.min(1000),
        }
    }

    /// Whether a part is at least this share of the whole.
    fn is_reached(self, part: u64, whole: u64) -> bool {
        u128::from(part) * 1000 >= u128::from(whole) * u128::from(self.thousandths)
    }
}

impl fmt::Display for Fraction {
    /// As in the configuration: `0.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{}.{:03}", self.thousandths / 1000, self.thousandths % 1000);
        let shortened = digits.trim_end_matches('0');
        let shown = if shortened.ends_with('.') {
            &digits[..3]
        } else {
            shortened
        };
        f.pad(shown)
    }
}

/// Whether a recovered tier takes over again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failback {
    /// As soon as it is healthy enough.
    Auto,
    /// Not as long as the one that serves is healthy enough.
    Manual,
}

/// What a backend's health, and the operator, mean for who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It serves.
    Healthy,
    /// Its first checks are under way.
    Pending,
    /// Alive, but does not keep up: used again when too few others are left.
    Saturated,
    /// It answers, but not as it should: used again when too few others are left, the saturated ones included.
    Failing,
    /// It does not answer at all: used again only when no backend of the service gives a sign of life, because then it is
    /// likelier that our own network is cut than that all of them have died.
    Silent,
    /// Nobody can be served there, or it says itself that it must not serve.
    Unusable,
    /// The operator has drained or disabled it: it does not count at all.
    Withdrawn,
}

/// One backend of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its tier.
    pub tier: u8,
    /// Its configured weight.
    pub weight: u32,
    /// Its standing.
    pub standing: Standing,
}

/// A service's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The share of its weight that a tier needs. 0 means that any healthy backend will do, and that a failing one is never
    /// used.
    pub min_healthy: Fraction,
    /// Whether a recovered tier takes over again by itself.
    pub failback: Failback,
}

/// Who serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The tier.
    pub active_tier: u8,
    /// For each member, in the order given, whether it gets new flows, as far as it has a weight.
    pub in_use: Vec<bool>,
    /// Set while backends are in use that would not be if there were enough others.
    pub guard: Option<Guard>,
}

/// The guard against mass removal is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The weight of the tier's healthy backends.
    pub healthy: u64,
    /// The weight of all its backends that the operator has not withdrawn.
    pub total: u64,
    /// The share that should be healthy.
    pub min_healthy: Fraction,
    /// How many backends are in use although they are saturated.
    pub saturated: usize,
    /// How many backends are in use although they fail their checks.
    pub failing: usize,
    /// How many backends are in use although none of the service gives a sign of life.
    pub silent: usize,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            healthy,
            total,
            min_healthy,
            saturated,
            failing,
            silent,
        } = self;
        if *silent > 0 {
            return write!(
                f,
                "no backend of the service gives a sign of life, so the balancer's own network may be cut: in use nevertheless \
                 {silent}"
            );
        }
        write!(
            f,
            "healthy weight {healthy} of {total}, min_healthy = {min_healthy}: in use although they are saturated \
             {saturated}, although they fail their checks {failing}"
        )
    }
}

/// The weights of one tier.
#[derive(Clone, Copy, Debug)]
struct Tier {
    number: u8,
    total: u64,
    healthy: u64,
    pending: u64,
    saturated: u64,
    failing: u64,
    silent: u64,
}

impl Tier {
    fn of(members: &[Member], number: u8) -> Self {
        let weight = |counts: fn(Standing) -> bool| -> u64 {
            members
                .iter()
                .filter(|member| member.tier == number && counts(member.standing))
                .map(|member| u64::from(member.weight))
                .sum()
        };
        Self {
            number,
            total: weight(|standing| standing != Standing::Withdrawn),
            healthy: weight(|standing| standing == Standing::Healthy),
            pending: weight(|standing| standing == Standing::Pending),
            saturated: weight(|standing| standing == Standing::Saturated),
            failing: weight(|standing| standing == Standing::Failing),
            silent: weight(|standing| standing == Standing::Silent),
        }
    }

    fn is_sufficient(&self, policy: Policy) -> bool {
        self.healthy > 0 && policy.min_healthy.is_reached(self.healthy, self.total)
    }

    /// Whether it is not sufficient only because checks have not come to an end.
    fn is_promising(&self, policy: Policy) -> bool {
        let hoped = self.healthy + self.pending;
        !self.is_sufficient(policy) && self.pending > 0 && policy.min_healthy.is_reached(hoped, self.total)
    }

    /// Of tiers that are all not sufficient, the one with the lowest value serves; then the lowest number.
    fn last_resort(&self) -> u8 {
        match self {
            tier if tier.healthy > 0 => 0,
            tier if tier.pending > 0 => 1,
            tier if tier.saturated > 0 => 2,
            tier if tier.failing > 0 => 3,
            tier if tier.silent > 0 => 4,
            _ => 5,
        }
    }
}

/// How much of each tier's weight is healthy, in words: why one tier serves and not another.
pub fn healthy_weights(members: &[Member]) -> String {
    let numbers: BTreeSet<u8> = members.iter().map(|member| member.tier).collect();
    let tiers = numbers.into_iter().map(|number| {
        let Tier { healthy, total, .. } = Tier::of(members, number);
        format!("{healthy} of {total} in tier {number}")
    });
    format!("healthy weight: {}", tiers.collect::<Vec<_>>().join(", "))
}

/// Who serves, given who served before; `None` at the start, or when the operator has asked to fail back.
///
/// With [`Failback::Auto`] and no check in its first rounds, the result depends on the members alone: two balancers with the
/// same view agree whatever they have seen before.
pub fn select(members: &[Member], policy: Policy, previous: Option<u8>) -> Selection {
    let active_tier = active_tier(members, policy, previous);
    let tier = Tier::of(members, active_tier);
    let (use_saturated, use_failing) = exceptions(&tier, policy);
    let use_silent = policy.min_healthy > Fraction::ZERO && gives_no_sign_of_life(members);
    let is_used = |member: &Member| {
        member.tier == active_tier
            && match member.standing {
                Standing::Healthy => true,
                Standing::Saturated => use_saturated,
                Standing::Failing => use_failing,
                Standing::Silent => use_silent,
                Standing::Pending | Standing::Unusable | Standing::Withdrawn => false,
            }
    };
    let in_use: Vec<bool> = members.iter().map(is_used).collect();
    let count = |standing| {
        members
            .iter()
            .filter(|member| member.standing == standing && member.weight > 0 && is_used(member))
            .count()
    };
    let guard = Guard {
        healthy: tier.healthy,
        total: tier.total,
        min_healthy: policy.min_healthy,
        saturated: count(Standing::Saturated),
        failing: count(Standing::Failing),
        silent: count(Standing::Silent),
    };
    Selection {
        active_tier,
        in_use,
        guard: (guard.saturated + guard.failing + guard.silent > 0).then_some(guard),
    }
}

/// Whether all backends of a service, of whatever tier, are silent. Also a refusal is a sign of life: the network works.
fn gives_no_sign_of_life(members: &[Member]) -> bool {
    members
        .iter()
        .all(|member| matches!(member.standing, Standing::Silent | Standing::Withdrawn))
}

/// Whether saturated and failing backends of a tier are used.
///
/// When most backends fail, it is more likely that the check is mistaken, or that all suffer from the same trouble, than
/// that the few others could carry everything. So those that answer at all stay in use, all alike: a choice among them
/// would move flows with every check.
fn exceptions(tier: &Tier, policy: Policy) -> (bool, bool) {
    // Backends whose first checks are under way may turn out well; until then somebody has to serve.
    let enough =
        |serving: u64| serving > 0 && policy.min_healthy.is_reached(serving + tier.pending, tier.total);
    let use_saturated = tier.saturated > 0 && !enough(tier.healthy);
    let serving = tier.healthy + if use_saturated { tier.saturated } else { 0 };
    let use_failing = policy.min_healthy > Fraction::ZERO && !enough(serving);
    (use_saturated, use_failing)
}

/// The tier that serves: the lowest one that is healthy enough.
///
/// A tier whose first checks are under way is waited for at the start, and is not left because backends have been
/// added to it. If no tier is healthy enough, the lowest one with any healthy backend serves, or else one that the guard
/// keeps alive.
fn active_tier(members: &[Member], policy: Policy, previous: Option<u8>) -> u8 {
    let mut numbers: Vec<u8> = members.iter().map(|member| member.tier).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let tiers: Vec<Tier> = numbers
        .into_iter()
        .map(|number| Tier::of(members, number))
        .filter(|tier| tier.total > 0)
        .collect();
    let before = tiers.iter().find(|tier| Some(tier.number) == previous);

    if policy.failback == Failback::Manual
        && let Some(tier) = before
        && (tier.is_sufficient(policy) || tier.is_promising(policy))
    {
        return tier.number;
    }
    let waits_for =
        |tier: &Tier| tier.is_promising(policy) && before.is_none_or(|before| before.number == tier.number);
    if let Some(tier) = tiers
        .iter()
        .find(|tier| tier.is_sufficient(policy) || waits_for(tier))
    {
        return tier.number;
    }
    if policy.failback == Failback::Manual
        && let Some(tier) = before
        && tier.healthy > 0
    {
        return tier.number;
    }
    tiers
        .iter()
        .min_by_key(|tier| (tier.last_resort(), tier.number))
        .map(|tier| tier.number)
        .or(previous)
        .or(members.iter().map(|member| member.tier).min())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
