//! The decapsulator: takes packets of balancers out of their tunnels, on a backend that has no tunnel device.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

/// The program exists on the BPF target only.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

// Not by way of the library: with it the balancer's maps would come along, and be made on every backend.
#[cfg(target_arch = "bpf")]
#[path = "../frame.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "the library needs all of it, and makes it public"
)]
mod frame;

#[cfg(target_arch = "bpf")]
mod program {
    use super::frame::Frame;
    use aya_ebpf::{
        bindings::xdp_action,
        macros::{map, xdp},
        maps::{Array, HashMap, PerCpuArray},
        programs::XdpContext,
    };
    use lb_common::{
        address::Address,
        decapsulate::{Action, AddressKey, Counter, Endpoint, MAX_ADDRESSES, Sources, process},
    };

    // The names are those of `lb_common::decapsulate::map`.

    /// This host's addresses, as far as they matter here.
    #[map]
    static TUNNEL_ADDRESSES: HashMap<AddressKey, u32> = HashMap::with_max_entries(MAX_ADDRESSES, 0);

    /// From where tunnels are accepted.
    #[map]
    static TUNNEL_SOURCES: Array<Sources> = Array::with_max_entries(1, 0);

    /// Tunnel packets by [`Counter`].
    #[map]
    static TUNNEL_COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

    #[xdp(frags)]
    fn decap(context: XdpContext) -> u32 {
        match process(&mut Frame::of(&context), &Maps) {
            Action::Pass => xdp_action::XDP_PASS,
            Action::Drop => xdp_action::XDP_DROP,
        }
    }

    /// The maps, as the endpoint of tunnels.
    struct Maps;

    impl Endpoint for Maps {
        #[inline(always)]
        fn role(&self, address: Address) -> u32 {
            // SAFETY: entries are integers, of which any bits are valid, and they are written before the program is attached.
            unsafe { TUNNEL_ADDRESSES.get(&AddressKey(address)) }.map_or(0, |role| *role)
        }

        #[inline(always)]
        fn accepts(&self, source: Address) -> bool {
            TUNNEL_SOURCES
                .get(0)
                .is_some_and(|sources| sources.contain(source))
        }

        #[inline(always)]
        fn count(&self, counter: Counter) {
            if let Some(value) = TUNNEL_COUNTERS.get_ptr_mut(counter as u32) {
                // SAFETY: the pointer is into this CPU's own copy of the value, aligned and valid. XDP programs run in
                // softirqs, which do not interrupt each other; where a kernel lets them (PREEMPT_RT), an increment of a
                // statistic may be lost.
                unsafe { *value += 1 };
            }
        }
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
