//! File operations that stay inside a directory, and the few system calls others need.
//!
//! Owns every access to files of a root file system or layer directory. Promises that no name, link
//! or race makes an operation touch anything outside the directory it was given. Must never follow a
//! link in the last component of a path.

mod copy;
mod fresh;
mod ids;
mod inherited;
mod mode;
mod nodes;
pub mod paths;
mod remove;
mod resolve;
mod root;
mod space;

pub use copy::{copy_content, copy_layer, copy_metadata};
pub use fresh::{make_beside, make_private_dir, new_file_beside};
pub use ids::IdMap;
pub use inherited::{descriptor_of, inherited};
pub use nodes::{HARMLESS_DEVICES, make_recorded_node, record_nodes};
pub use remove::{remove_in, remove_tree};
pub use resolve::{open_resolved, open_resolved_c};
pub use root::{
    NODE_RECORD, OWNER_RECORD, Root, TreeEntry, is_overlay_private, is_record, open_file_in, owner_record,
    parse_node_record, parse_owner_record,
};
pub use space::{
    disk_space, disk_usage, file_system_name, free_space, has_user_attributes, is_full, names_full_disk,
    shown_size,
};
