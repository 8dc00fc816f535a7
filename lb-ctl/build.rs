//! Compiles the BPF programs that the product contains.

fn main() -> std::process::ExitCode {
    bpf_build::compile(&["balancer", "decap"])
}
