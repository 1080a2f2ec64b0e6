//! CONTRACT SKELETON: the Rust client over the Unix socket.
