//! Disks that fail: single system calls of the real program answer with an error (`strace` injects it),
//! file systems run full in the middle of a write. Whatever happens, the store is whole, what it had is
//! still there, and the next command gives the right image.
//!
//! The ordinary run tries some sixty faults from a fixed seed; `RBUILD_DISK_FAULTS=400` tries so many,
//! `RBUILD_CRASH_SEED` others.

#[path = "../support/cases.rs"]
mod cases;
mod collections;
mod faults;
mod full;
mod inject;
mod limits;
mod locks;
mod records;
mod scene;
#[path = "../support/mod.rs"]
mod support;

use std::process::Command;

use cases::Row;
use support::Done;

/// The programs of `RUN` are hit too, so every one of them says when it failed (`seq` does not).
const ROWS: [Row; 5] = [
    (
        "run",
        "FROM busybox\nCOPY src /src\nRUN cat /src/d1/f8 /src/d1/f15 > /a\nRUN cp /a /b && rm /a\n\
         RUN mkdir -p /x/y && cp /b /x/y/c\n",
        None,
        &[],
    ),
    ("copy", "FROM scratch\nCOPY src /src\nCOPY src/d1 src/d2 /two/\nWORKDIR /w\n", None, &[]),
    (
        "stages",
        "FROM busybox AS a\nRUN cat /etc/passwd /bin/busybox > /a\nFROM busybox AS b\nCOPY src /s\nRUN cat /s/d1/f1 /s/d1/f8 > /b\n\
         FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\nRUN cat /a /b > /ab\n",
        Some("type=oci,compression=zstd,dest="),
        &["-t", "stages:1"],
    ),
    ("export", "FROM busybox\nCOPY src /src\nENV a=b\n", Some("type=docker,dest="), &["-t", "export:1"]),
    (
        "mounts",
        "FROM busybox\nRUN --mount=type=cache,target=/c --mount=type=bind,target=/s,source=src \
         cat /s/d2/f2 /s/d2/f9 > /c/x && cat /c/x > /all\nCOPY --link src /l\n",
        Some("type=local,dest="),
        &[],
    ),
];

fn run(mut command: Command) -> Done {
    support::done(command.output().expect("the program starts"))
}

fn wanted_faults() -> Option<usize> {
    number_of("RBUILD_DISK_FAULTS").map(|faults| faults as usize)
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
