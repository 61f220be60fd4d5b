//! Extended attributes, access control lists among them: nothing in a store has any.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// Lists of rights that what is made in a directory may get from it.
const INHERITED: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// Attributes that the system gives to everything, and takes from nothing: the default of Nix's
/// setting `ignored-acls`.
pub const IGNORED_ATTRIBUTES: [&str; 3] = ["security.selinux", "system.nfs4_acl", "security.csm"];

/// Whether there was anything to take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Some,
}

/// Takes lists of rights from something that was just made.
pub(crate) fn strip_inherited(fd: BorrowedFd<'_>) -> Result<Found, Errno> {
    strip(&ByDescriptor(fd), |name| INHERITED.contains(&name))
}

/// What attributes belong to.
pub(crate) trait Bearer {
    /// Returns how many bytes [`Bearer::list`] would need now.
    fn list_len(&self) -> Result<usize, Errno>;
    fn list(&self, into: &mut [u8]) -> Result<usize, Errno>;
    fn remove(&self, name: &[u8]) -> Result<(), Errno>;
}

/// A file or directory that is open.
pub(crate) struct ByDescriptor<'a>(pub(crate) BorrowedFd<'a>);

impl Bearer for ByDescriptor<'_> {
    fn list_len(&self) -> Result<usize, Errno> {
        rustix::fs::flistxattr_query(self.0)
    }

    fn list(&self, into: &mut [u8]) -> Result<usize, Errno> {
        rustix::fs::flistxattr(self.0, into)
    }

    fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::fremovexattr(self.0, name)
    }
}

/// A symbolic link, by a path that leads to it and not through it
/// ([`magic_path`](crate::handle::magic_path)).
pub(crate) struct ByMagicPath(pub(crate) String);

impl Bearer for ByMagicPath {
    fn list_len(&self) -> Result<usize, Errno> {
        rustix::fs::listxattr_query(self.0.as_str())
    }

    fn list(&self, into: &mut [u8]) -> Result<usize, Errno> {
        rustix::fs::listxattr(self.0.as_str(), into)
    }

    fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::removexattr(self.0.as_str(), name)
    }
}

/// Takes away all attributes that `unwanted` names.
pub(crate) fn strip(
    bearer: &impl Bearer,
    unwanted: impl Fn(&[u8]) -> bool,
) -> Result<Found, Errno> {
    let mut found = Found::Nothing;
    for name in names(bearer)? {
        if unwanted(&name) {
            match bearer.remove(&name) {
                Ok(()) | Err(Errno::NODATA) => found = Found::Some,
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(found)
}

/// Returns whether it has an attribute that `unwanted` names.
pub(crate) fn find(bearer: &impl Bearer, unwanted: impl Fn(&[u8]) -> bool) -> Result<Found, Errno> {
    let any = names(bearer)?.iter().any(|name| unwanted(name));
    Ok(if any { Found::Some } else { Found::Nothing })
}

fn names(bearer: &impl Bearer) -> Result<Vec<Vec<u8>>, Errno> {
    loop {
        let len = match bearer.list_len() {
            Ok(0) | Err(Errno::NOTSUP | Errno::NODATA) => return Ok(Vec::new()),
            len => len?,
        };
        let mut list = vec![0; len];
        match bearer.list(&mut list) {
            Ok(len) => {
                list.truncate(len);
                let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
                return Ok(names.map(<[u8]>::to_vec).collect());
            }
            // There are more since they were counted.
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
}
