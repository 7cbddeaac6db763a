//! Archives and directories, read back by this program and by independent ones.

mod archives;
mod files;
mod fixture;
mod tools;
