//! The binary `hufu`: one for everything an operator or engineer runs.
#![forbid(unsafe_code)]

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hufu_node::cli::abort_on_panic();
    hufu_node::cli::main()
}
