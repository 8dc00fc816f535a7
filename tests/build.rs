//! Compiles the BPF programs that only the lab contains.

fn main() -> std::process::ExitCode {
    bpf_build::compile(&["flood", "harness"])
}
