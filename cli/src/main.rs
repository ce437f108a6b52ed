//! The command `covey`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    covey_engine::allocator::keep_for_a_while();
    let runtime = match covey_engine::threads::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(covey_cli::main());
    covey_engine::threads::end(runtime);
    code
}
