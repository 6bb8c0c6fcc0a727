//! What the memory of L1 costs and how well it chooses: `cargo bench --bench l1 [-- ratio|shift|scan|speed|memory|idle]`.
//!
//! Prints tables; asserts nothing. Ratios do not depend on the machine, nanoseconds do.

mod memory;
mod policies;
mod ratio;
mod speed;
mod world;

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.is_empty() {
        // `cargo test --all-targets` calls it so: it takes minutes and asserts nothing.
        return;
    }
    args.retain(|arg| arg != "--bench");
    let wants = |what: &str| args.is_empty() || args[0] == what;
    if args.first().is_some_and(|arg| arg == "memory-of") {
        memory::measure(&args[1..]);
        return;
    }
    if wants("speed") {
        speed::run();
    }
    if wants("memory") {
        memory::run();
    }
    if wants("idle") {
        memory::idle();
    }
    if wants("scan") {
        ratio::scan();
    }
    if wants("shift") {
        ratio::shift();
    }
    if wants("ratio") {
        ratio::run();
    }
}
