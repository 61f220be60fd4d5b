//! Which network a command has, and what carries it where it wants to go.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use rustix::fs::{Access, FileType};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use serde::{Deserialize, Serialize};

use crate::standing::Standing;
use crate::sys;

/// Which network the command has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// A loopback interface of its own, and nothing else.
    Private,
    /// One of its own, from which a program carries to the machine's network what the command sends. It
    /// reaches what the machine reaches, by TCP, UDP and ping, but nothing that listens on the machine's
    /// loopback, and no abstract Unix socket; nobody outside reaches it.
    ///
    /// Takes user namespaces. Where the machine has no interface but its loopback, this is
    /// [`Network::Private`].
    Forwarded(Forwarder),
    /// The machine's: all of its interfaces, its loopback and its abstract Unix sockets.
    ///
    /// [`Scope`](crate::Scope) keeps the command from connecting to abstract sockets of others. **It doesn't
    /// keep a process outside from connecting to one of the command's**, and so from being handed an open
    /// file. Who runs a command like this has to copy its outputs to fresh inodes before trusting
    /// them. [`SyscallFilter::BuildsWithoutUnixSockets`](crate::SyscallFilter) closes both ways.
    Host,
}

/// The program that carries a command's traffic: `pasta`, which is part of passt.
///
/// It runs as the command's user, with privileges over the command's network alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forwarder {
    /// Its file.
    pub program: PathBuf,
}

/// What networks are reached by from programs.
pub(crate) const TUN: &str = "/dev/net/tun";

impl Forwarder {
    /// The command's side of its network. These are of those that are set aside for machines that
    /// translate by themselves (RFC 7335), so that no other network has them.
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
    const PREFIX: &str = "29";
    /// The same for the newer protocol (RFC 8215).
    const ADDRESS_6: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 1, 0xd0e, 0, 0, 0, 2);

    /// The other side. What is asked of it as a name server is asked of the first one with such an
    /// address that the machine has in `/etc/resolv.conf`, also if that is on the machine's loopback.
    pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
    /// The same for the newer protocol.
    pub const NAME_SERVER_6: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 1, 0xd0e, 0, 0, 0, 1);

    /// Says whether this machine has the device that every such program needs, and lets this process
    /// have it opened.
    pub fn has_device() -> bool {
        let is_device = rustix::fs::stat(TUN)
            .is_ok_and(|it| FileType::from_raw_mode(it.st_mode).is_char_device());
        is_device
            && (Standing::of_this_process() == Standing::Root
                || rustix::fs::access(TUN, Access::READ_OK | Access::WRITE_OK).is_ok())
    }

    /// Returns all arguments, for a program that finds the network behind its stdin and says at its
    /// stdout that all is set up.
    pub(crate) fn arguments(&self, interface: Option<&str>) -> Vec<OsString> {
        let flags = [
            "pasta",
            "--foreground",
            "--quiet",
            "--config-net",
            // neither the machine's loopback, nor anything from outside
            "--no-map-gw",
            "--tcp-ports=none",
            "--udp-ports=none",
            "--tcp-ns=none",
            "--udp-ns=none",
            // all is said already
            "--no-dhcp",
            "--no-dhcpv6",
            "--no-ra",
            "--netns-only",
            "--no-netns-quit",
            "--netns=/proc/self/fd/0",
            "--pid=/proc/self/fd/1",
            "--ns-ifname=eth0",
        ];
        let mut arguments: Vec<OsString> = flags.into_iter().map(OsString::from).collect();
        let mut add = |name: &str, value: &dyn std::fmt::Display| {
            arguments.push(format!("--{name}={value}").into());
        };
        add("address", &Forwarder::ADDRESS);
        add("netmask", &Forwarder::PREFIX);
        add("gateway", &Forwarder::NAME_SERVER);
        add("dns-forward", &Forwarder::NAME_SERVER);
        add("address", &Forwarder::ADDRESS_6);
        add("gateway", &Forwarder::NAME_SERVER_6);
        add("dns-forward", &Forwarder::NAME_SERVER_6);
        if let Some(interface) = interface {
            add("interface", &interface);
        }
        arguments
    }
}

/// By which of the machine's interfaces others can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WayOut {
    /// By that of the default route, which the program finds by itself.
    Usual,
    /// There is no default route: by this one, which leads somewhere.
    By(String),
    /// By none.
    None,
}

impl WayOut {
    /// Returns that of the network that this process is in.
    pub(crate) fn of_this_machine() -> WayOut {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        WayOut::of(&read("/proc/self/net/route"), &read("/proc/self/net/ipv6_route"))
    }

    fn of(routes: &str, routes_6: &str) -> WayOut {
        let older = routes.lines().skip(1).filter_map(Route::of_line);
        let newer = routes_6.lines().filter_map(Route::of_line_6);
        let routes: Vec<Route<'_>> = older.chain(newer).collect();
        match routes.first() {
            _ if routes.iter().any(|route| route.to == To::Anywhere) => WayOut::Usual,
            Some(route) => WayOut::By(route.interface.to_owned()),
            None => WayOut::None,
        }
    }
}

/// A route that leads out of the machine.
struct Route<'a> {
    interface: &'a str,
    to: To,
}

/// Where a route leads.
#[derive(PartialEq, Eq)]
enum To {
    Anywhere,
    Some,
}

impl Route<'_> {
    /// Reads a line of `/proc/net/route`.
    fn of_line(line: &str) -> Option<Route<'_>> {
        let mut fields = line.split_ascii_whitespace();
        let (interface, to) = (fields.next()?, fields.next()?);
        let flags = fields.nth(1)?;
        let mask = fields.nth(3)?;
        let is_default = [to, mask] == ["00000000"; 2];
        Route::new(interface, flags, if is_default { To::Anywhere } else { To::Some })
    }

    /// Reads a line of `/proc/net/ipv6_route`.
    fn of_line_6(line: &str) -> Option<Route<'_>> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [to, length, .., flags, interface] = *fields.as_slice() else { return None };
        let to = match (to, length) {
            // every interface has these
            _ if to.starts_with("fe80") || to.starts_with("ff") => return None,
            (_, "00") => To::Anywhere,
            _ => To::Some,
        };
        Route::new(interface, flags, to)
    }

    fn new<'a>(interface: &'a str, flags: &str, to: To) -> Option<Route<'a>> {
        /// What is sent this way is refused.
        const REJECTED: u32 = 0x200;
        let flags = u32::from_str_radix(flags, 16).ok()?;
        (interface != "lo" && flags & REJECTED == 0).then_some(Route { interface, to })
    }
}

/// Makes it that a command reaches itself.
pub(crate) fn switch_loopback_on() -> Result<(), Errno> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    sys::switch_loopback_on(socket.as_fd())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NONE: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
    const LAN: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        vm\t0000090A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    const USUAL: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        vm\t0000090A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    /// As on every machine: its own address, link-local ones, and that anything else is refused.
    const NONE_6: &str = "\
        00000000000000000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000 80200001       lo\n\
        fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001       vm\n\
        ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000003 00000000 00000001       vm\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
    const LAN_6: &str = "fd090000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001    v6\n";
    const USUAL_6: &str = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n";

    #[rstest]
    #[case::usual(USUAL, NONE_6, WayOut::Usual)]
    #[case::usual_of_the_newer(NONE, USUAL_6, WayOut::Usual)]
    #[case::without_default(LAN, NONE_6, WayOut::By("vm".to_owned()))]
    #[case::without_default_of_the_newer(NONE, LAN_6, WayOut::By("v6".to_owned()))]
    #[case::loopback_alone(NONE, NONE_6, WayOut::None)]
    #[case::unreadable("", "", WayOut::None)]
    fn ways_out(#[case] routes: &str, #[case] routes_6: &str, #[case] expected: WayOut) {
        assert_eq!(WayOut::of(routes, routes_6), expected);
    }
}
