//! Values that are copied in and out of maps as bytes.

use lb_common::decapsulate::{AddressKey, Sources};
use lb_common::layout::{
    Affinity, ClientKey, FlowKey, FlowRecord, HalfOpen, News, Node, Return, ReturnKey, Service, ServiceKey,
    SettledFlow, Target, TargetName, Traffic,
};

/// A layout of `lb-common` as aya wants it. Needed because both the type and aya's trait are foreign here.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: the layout is `repr(C)`, `Copy`, of integers only and without padding, as a test in `lb-common` asserts: any
// bytes are a valid value.
unsafe impl aya::Pod for Raw<ServiceKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Service> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Target> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Traffic> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<FlowKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<FlowRecord> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<ClientKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Affinity> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<HalfOpen> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<SettledFlow> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Node> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<News> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<ReturnKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Return> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<AddressKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<Sources> {}
// SAFETY: as above.
unsafe impl aya::Pod for Raw<TargetName> {}
// SAFETY: an integer.
unsafe impl aya::Pod for Raw<u32> {}
// SAFETY: an integer.
unsafe impl aya::Pod for Raw<u64> {}
