//! Discovery: the coordinators of an Impala cluster, from their own web pages.
//!
//! Every coordinator has a page that lists all of them, as the statestore has told it. The pages of a few of them, the *seeds*, are
//! read again and again; whoever they list is a *member* of the service, beside the backends of the file.
//!
//! - `page`: what `/backends?json` says.
//! - `membership`: who is a member, as pages come in or fail to.
//! - `join`: members and the file together are the configuration that is followed.
//!
//! Nothing here does I/O or looks at a clock; points in time are durations since some fixed moment of the caller's
//! monotonic clock.

mod join;
mod membership;
mod page;

pub use join::{Joined, Refused, join};
pub use membership::{Announcement, Asked, Membership, Notice};
pub use page::{Coordinator, MOST_COORDINATORS, PAGE_LIMIT, PageError, parse};
