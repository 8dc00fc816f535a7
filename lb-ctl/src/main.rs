//! `lb-ctl`, the load balancer's one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_ctl::cli::main()
}
