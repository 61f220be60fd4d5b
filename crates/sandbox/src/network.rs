//! The network of a command that has none but its own.

use std::os::fd::AsFd as _;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

use crate::sys;

/// Makes it that a command reaches itself.
pub(crate) fn switch_loopback_on() -> Result<(), Errno> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    sys::switch_loopback_on(socket.as_fd())
}
