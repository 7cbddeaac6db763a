//! What a process asks the supervisor for: the number of a system call, its arguments and the memory that
//! they point to, read into one value. Nothing in here acts, so it can be tried with any bytes.

use std::ffi::{CStr, CString};

use libc::c_long;
use rustix::io::Errno;

const PATH_MAX: usize = 4096;
/// NGROUPS_MAX (linux/limits.h).
const MOST_GROUPS: usize = 65_536;

/// The memory of a process.
pub trait Memory {
    /// Fills a buffer with what is at an address. Gives how much there was: less where less is mapped.
    fn read(&self, address: u64, into: &mut [u8]) -> usize;
}

/// The file that a call names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An open one.
    Descriptor(i32),
    /// The working directory.
    Here,
    /// By a path, which is not empty.
    Path {
        /// Where a relative path begins: a descriptor, or `AT_FDCWD`.
        dir: i32,
        /// Without the NUL byte at its end.
        path: CString,
        /// Whether a link at its end is followed.
        follow: bool,
    },
}

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Another owner; an ID of -1 stays as it is.
    Chown {
        /// Whose owner.
        place: Place,
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// A device node.
    Node {
        /// Where a relative path begins: a descriptor, or `AT_FDCWD`.
        dir: i32,
        /// Where.
        path: CString,
        /// Kind and permissions, before the umask.
        mode: u32,
        /// Its number, as the kernel takes it.
        device: u32,
    },
    /// `getuid` and its like, with where the answer goes.
    Get {
        /// Which call.
        call: c_long,
        /// Its arguments.
        args: [u64; 3],
    },
    /// `setuid` and its like.
    SetIds {
        /// Which call.
        call: c_long,
        /// Its arguments, as many as it has.
        ids: [u32; 3],
    },
    /// Other supplementary groups.
    SetGroups(Vec<u32>),
    /// `PR_SET_KEEPCAPS`.
    KeepCapabilities(bool),
    /// `PR_SET_SECUREBITS`.
    SecureBits(u32),
    /// `capset`.
    Capabilities {
        /// Those that count.
        effective: u64,
        /// Those that can be made to count.
        permitted: u64,
    },
    /// Nothing of what is emulated: the kernel's matter.
    Kernel,
}

impl Request {
    /// Reads a call. An error is what the call fails with.
    pub fn read(call: c_long, args: &[u64; 6], memory: &impl Memory) -> Result<Self, Errno> {
        let id = |at: usize| args[at] as u32;
        let number = |at: usize| args[at] as u32 as i32;
        Ok(match call {
            libc::SYS_fchown => {
                Request::Chown { place: Place::Descriptor(number(0)), uid: id(1), gid: id(2) }
            }
            libc::SYS_fchownat => Request::Chown {
                place: place(number(0), args[1], number(4), memory)?,
                uid: id(2),
                gid: id(3),
            },
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chown | libc::SYS_lchown => {
                let flags = if call == libc::SYS_lchown { libc::AT_SYMLINK_NOFOLLOW } else { 0 };
                Request::Chown {
                    place: place(libc::AT_FDCWD, args[0], flags, memory)?,
                    uid: id(1),
                    gid: id(2),
                }
            }
            libc::SYS_mknodat => node(number(0), args[1], id(2), id(3), memory)?,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mknod => node(libc::AT_FDCWD, args[0], id(1), id(2), memory)?,
            libc::SYS_getuid
            | libc::SYS_geteuid
            | libc::SYS_getgid
            | libc::SYS_getegid
            | libc::SYS_getresuid
            | libc::SYS_getresgid
            | libc::SYS_getgroups => Request::Get { call, args: [args[0], args[1], args[2]] },
            libc::SYS_setgroups => Request::SetGroups(groups(id(0), args[1], memory)?),
            libc::SYS_setuid
            | libc::SYS_setgid
            | libc::SYS_setreuid
            | libc::SYS_setregid
            | libc::SYS_setresuid
            | libc::SYS_setresgid => Request::SetIds { call, ids: [id(0), id(1), id(2)] },
            libc::SYS_prctl => of_process(number(0), args[1])?,
            libc::SYS_capset => capabilities(args[0], args[1], memory)?,
            _ => return Err(Errno::NOSYS),
        })
    }
}

fn of_process(option: i32, value: u64) -> Result<Request, Errno> {
    Ok(match (option, value) {
        (libc::PR_SET_KEEPCAPS, 0 | 1) => Request::KeepCapabilities(value == 1),
        (libc::PR_SET_KEEPCAPS, _) => return Err(Errno::INVAL),
        // What does not fit is refused by the kernel.
        (libc::PR_SET_SECUREBITS, _) => u32::try_from(value).map_or(Request::Kernel, Request::SecureBits),
        _ => Request::Kernel,
    })
}

fn place(dir: i32, address: u64, flags: i32, memory: &impl Memory) -> Result<Place, Errno> {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::INVAL);
    }
    let path = string(address, memory)?;
    match (path.is_empty(), flags & libc::AT_EMPTY_PATH != 0, dir) {
        (true, false, _) => Err(Errno::NOENT),
        (true, true, libc::AT_FDCWD) => Ok(Place::Here),
        (true, true, dir) => Ok(Place::Descriptor(dir)),
        (false, ..) => {
            Ok(Place::Path { dir: base(dir, &path), path, follow: flags & libc::AT_SYMLINK_NOFOLLOW == 0 })
        }
    }
}

/// An absolute path needs no valid directory.
fn base(dir: i32, path: &CStr) -> i32 {
    if path.to_bytes().starts_with(b"/") { libc::AT_FDCWD } else { dir }
}

fn node(dir: i32, address: u64, mode: u32, device: u32, memory: &impl Memory) -> Result<Request, Errno> {
    if !matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK) {
        return Ok(Request::Kernel);
    }
    let path = string(address, memory)?;
    Ok(Request::Node { dir: base(dir, &path), path, mode, device })
}

fn groups(count: u32, address: u64, memory: &impl Memory) -> Result<Vec<u32>, Errno> {
    let count = usize::try_from(count).ok().filter(|count| *count <= MOST_GROUPS).ok_or(Errno::INVAL)?;
    let mut bytes = vec![0u8; count * 4];
    fill(address, &mut bytes, memory)?;
    Ok(words(&bytes).collect())
}

/// The structures of `capset` (linux/capability.h): a header of version and process, and three words for
/// each 32 capabilities.
fn capabilities(header: u64, data: u64, memory: &impl Memory) -> Result<Request, Errno> {
    const VERSION_1: u32 = 0x1998_0330;
    const VERSIONS_2_3: [u32; 2] = [0x2007_1026, 0x2008_0522];
    let mut bytes = [0u8; 8];
    fill(header, &mut bytes, memory)?;
    let version = words(&bytes).next().unwrap_or_default();
    let length = match version {
        VERSION_1 => 12,
        version if VERSIONS_2_3.contains(&version) => 24,
        _ => return Ok(Request::Kernel),
    };
    let mut bytes = [0u8; 24];
    fill(data, &mut bytes[..length], memory)?;
    let mut words = words(&bytes).map(u64::from);
    let mut next = || words.next().unwrap_or_default();
    let (low_effective, low_permitted, _) = (next(), next(), next());
    let (high_effective, high_permitted) = (next(), next());
    Ok(Request::Capabilities {
        effective: low_effective | high_effective << 32,
        permitted: low_permitted | high_permitted << 32,
    })
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).filter_map(|four| Some(u32::from_ne_bytes(four.try_into().ok()?)))
}

fn fill(address: u64, into: &mut [u8], memory: &impl Memory) -> Result<(), Errno> {
    let mut at = 0;
    while at < into.len() {
        let from = address.checked_add(at as u64).ok_or(Errno::FAULT)?;
        match memory.read(from, &mut into[at..]) {
            0 => return Err(Errno::FAULT),
            count => at += count,
        }
    }
    Ok(())
}

/// A string in the memory of the process.
pub(super) fn string(address: u64, memory: &impl Memory) -> Result<CString, Errno> {
    let mut bytes = Vec::new();
    while bytes.len() < PATH_MAX {
        // Up to the end of a page: what follows may not be mapped.
        let at = address.checked_add(bytes.len() as u64).ok_or(Errno::FAULT)?;
        let mut piece = vec![0u8; PATH_MAX - (at % PATH_MAX as u64) as usize];
        let count = memory.read(at, &mut piece);
        if count == 0 {
            return Err(Errno::FAULT);
        }
        bytes.extend_from_slice(piece.get(..count).ok_or(Errno::FAULT)?);
        if let Ok(text) = CStr::from_bytes_until_nul(&bytes) {
            return if text.count_bytes() < PATH_MAX { Ok(text.to_owned()) } else { Err(Errno::NAMETOOLONG) };
        }
    }
    Err(Errno::NAMETOOLONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some bytes at an address.
    struct At(u64, Vec<u8>);

    impl Memory for At {
        fn read(&self, address: u64, into: &mut [u8]) -> usize {
            let from = address.checked_sub(self.0).map(|from| from as usize);
            let there = from.and_then(|from| self.1.get(from..)).unwrap_or_default();
            let count = there.len().min(into.len());
            into[..count].copy_from_slice(&there[..count]);
            count
        }
    }

    #[test]
    fn paths_end_with_a_nul_within_the_limit() {
        let read = |memory: At| string(memory.0, &memory);
        assert_eq!(read(At(4090, b"/a/long/name\0x".to_vec())).as_deref(), Ok(c"/a/long/name"));
        assert_eq!(read(At(8192, b"/no/end".to_vec())), Err(Errno::FAULT));
        assert_eq!(read(At(1, vec![b'a'; 3 * PATH_MAX])), Err(Errno::NAMETOOLONG));
        assert_eq!(read(At(u64::MAX - 3, b"abc".to_vec())), Err(Errno::FAULT));
    }

    #[test]
    fn calls_are_read_with_their_memory() {
        let memory = At(
            0x1000,
            b"/f\0\0\x22\x05\x08\x20\0\0\0\0\xc1\0\0\0\xc0\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0"
                .to_vec(),
        );
        let read = |call, args: [u64; 6]| Request::read(call, &args, &memory);
        let path = |follow| Place::Path { dir: libc::AT_FDCWD, path: c"/f".to_owned(), follow };
        let chown = |place| Ok(Request::Chown { place, uid: 5, gid: u32::MAX });
        let minus_one = u64::MAX;
        assert_eq!(read(libc::SYS_fchownat, [77, 0x1000, 5, minus_one, 0, 0]), chown(path(true)));
        assert_eq!(read(libc::SYS_fchownat, [77, 0x1000, 5, minus_one, 0x100, 0]), chown(path(false)));
        assert_eq!(read(libc::SYS_fchownat, [77, 0x1002, 5, minus_one, 0, 0]), Err(Errno::NOENT));
        let descriptor = Place::Descriptor(77);
        assert_eq!(read(libc::SYS_fchownat, [77, 0x1002, 5, minus_one, 0x1000, 0]), chown(descriptor));
        assert_eq!(read(libc::SYS_fchownat, [77, 0x1000, 5, minus_one, 0x8000, 0]), Err(Errno::INVAL));
        assert_eq!(read(libc::SYS_mknodat, [0, 0x1000, 0o010_644, 0, 0, 0]), Ok(Request::Kernel));
        assert_eq!(read(libc::SYS_setgroups, [65_537, 0x1000, 0, 0, 0, 0]), Err(Errno::INVAL));
        assert_eq!(read(libc::SYS_setgroups, [1000, 0x1000, 0, 0, 0, 0]), Err(Errno::FAULT));
        assert_eq!(read(libc::SYS_setgroups, [0, 0, 0, 0, 0, 0]), Ok(Request::SetGroups(Vec::new())));
        let kept = Request::KeepCapabilities(true);
        assert_eq!(read(libc::SYS_prctl, [8, 1, 0, 0, 0, 0]), Ok(kept));
        assert_eq!(read(libc::SYS_prctl, [8, 2, 0, 0, 0, 0]), Err(Errno::INVAL));
        let both = Request::Capabilities { effective: 1 << 32 | 0xc1, permitted: 2 << 32 | 0xc0 };
        assert_eq!(read(libc::SYS_capset, [0x1004, 0x100c, 0, 0, 0, 0]), Ok(both));
        assert_eq!(read(libc::SYS_read, [0; 6]), Err(Errno::NOSYS));
    }
}
