//! CONTRACT SKELETON: what systemd hears and gives: sd_notify states, the watchdog, passed sockets.
