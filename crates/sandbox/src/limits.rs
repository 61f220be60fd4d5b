//! What the kernel limits a process to, and what it pretends to it.

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource as RustixResource, Rlimit};

use crate::error::{At, Failure, Step};
use crate::plan::{Addresses, HardLimit, Limit, Machine, Personality, Resource};
use crate::sys;

pub(crate) fn set_oom_score(score: i16) -> Result<(), Failure> {
    let step = Step::SetOomScore;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open("/proc/self/oom_score_adj", flags, Mode::empty()).at(step)?;
    rustix::io::write(&file, score.to_string().as_bytes()).map(drop).at(step)
}

pub(crate) fn set_limit(limit: &Limit) -> Result<(), Failure> {
    let resource = match limit.resource {
        Resource::Core => RustixResource::Core,
        Resource::Cpu => RustixResource::Cpu,
        Resource::FileSize => RustixResource::Fsize,
        Resource::OpenFiles => RustixResource::Nofile,
        Resource::Processes => RustixResource::Nproc,
        Resource::Stack => RustixResource::Stack,
        Resource::AddressSpace => RustixResource::As,
    };
    let maximum = match limit.hard {
        HardLimit::Unchanged => rustix::process::getrlimit(resource).maximum,
        HardLimit::To(maximum) => Some(maximum),
    };
    rustix::process::setrlimit(resource, Rlimit { current: limit.soft, maximum })
        .on(Step::SetLimit, &format_args!("{:?}", limit.resource))
}

pub(crate) fn set_personality(personality: Personality) -> Result<(), Failure> {
    // `PER_LINUX` and `PER_LINUX32`, which the libc crate doesn't have.
    let machine = match personality.machine {
        Machine::Native => 0,
        Machine::Linux32 => 8,
    };
    let addresses = match personality.addresses {
        Addresses::Random => 0,
        Addresses::Fixed => libc::ADDR_NO_RANDOMIZE,
    };
    let persona = libc::c_ulong::from((machine | addresses).cast_unsigned());
    sys::set_personality(persona).at(Step::SetPersonality)
}
