//! What is done with few packets, in BPF functions of their own: inlined it would take registers and stack from all.
//!
//! Those that need the frame take the program's context and read it anew, because pointers into a frame are no arguments.

use aya_ebpf::{bindings::xdp_md, maps::lpm_trie::Key, programs::XdpContext};
use lb_common::{address::Address, forward, icmp_error, layout::AllowedKey, translation};

use crate::{
    frame::Frame,
    maps::{ALLOWED, Maps},
};

/// Whether a restricted service may be used from an address.
#[inline(never)]
pub(crate) fn is_allowed(client: &Address, service: u16) -> bool {
    let key = AllowedKey::client(service, *client);
    let key = &raw const key;
    // SAFETY: both are a number of bits and behind it five words, without padding; `Key` has no alignment. `key` lives until
    // the end of the function.
    ALLOWED.get(unsafe { &*key.cast::<Key<[u32; 5]>>() }).is_some()
}

/// Makes of the frame an [RST back to its sender](forward::reset), and returns whether it has.
#[inline(never)]
pub(crate) fn reset(context: *mut xdp_md) -> bool {
    forward::reset(&mut Frame::of(&XdpContext::new(context))).is_some()
}

/// Makes of the frame the [answer that it is too big](forward::packet_too_big), and returns whether it has.
#[inline(never)]
pub(crate) fn packet_too_big(context: *mut xdp_md, limit: u16) -> bool {
    forward::packet_too_big(&mut Frame::of(&XdpContext::new(context)), limit).is_some()
}

/// Forwards an [ICMP error](icmp_error::forward) about a flow, and returns the action as bits.
#[inline(never)]
pub(crate) fn forward_icmp_error(context: *mut xdp_md) -> u64 {
    icmp_error::forward(&mut Frame::of(&XdpContext::new(context)), &Maps).to_bits()
}

/// Forwards an [ICMP error](translation::forward_error) about a translated connection, and returns the action as bits.
#[inline(never)]
pub(crate) fn translate_icmp_error(context: *mut xdp_md) -> u64 {
    translation::forward_error(&mut Frame::of(&XdpContext::new(context)), &Maps).to_bits()
}
