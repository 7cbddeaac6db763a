//! What a process in the image sees of its files, as the facts that a layer has of them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub type Files = BTreeMap<String, Map<String, Value>>;

/// A RUN for `busybox` that writes every file of the image but what is mounted into `/listing`.
pub const COMMAND: &str = "list() { find / -path /proc -prune -o -path /sys -prune -o -path /dev -prune -o -path /etc/hosts -prune \
-o -path /etc/resolv.conf -prune -o -path /listing -prune -o -path /tmp -prune -o \"$@\"; }; \
list -exec stat -c '|%F|%a|%u|%g|%Y|%i|%N' {} + > /tmp/l && list -type f -exec sha256sum {} + > /tmp/s && cat /tmp/l /tmp/s > /listing && \
rm /tmp/l /tmp/s";

/// Reads what the command wrote. Of several names of one file all but the first have it as `link`.
pub fn read(text: &str) -> Files {
    let mut files = Files::new();
    let mut inodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix('|') {
            let fields: Vec<&str> = line.splitn(7, '|').collect();
            let [kind, mode, uid, gid, mtime, inode, name] = fields[..] else { panic!("listing: {line:?}") };
            let (name, target) = match name.strip_prefix('\'').and_then(|name| name.split_once("' -> '")) {
                Some((name, target)) => (name, Some(target.trim_end_matches('\''))),
                None => (name, None),
            };
            let mut facts = Map::new();
            let kind = kind_of(kind);
            facts.insert("type".into(), kind.into());
            if let Some(target) = target {
                facts.insert("target".into(), target.into());
            } else {
                facts.insert("mode".into(), format!("{mode:0>4}").into());
            }
            let number = |text: &str| Value::from(text.parse::<i64>().expect("a number"));
            facts.insert("uid".into(), number(uid));
            facts.insert("gid".into(), number(gid));
            facts.insert("mtime".into(), number(mtime));
            let path = name.trim_start_matches('/').to_owned();
            if kind != "dir" {
                inodes.entry(inode.to_owned()).or_default().push(path.clone());
            }
            files.insert(path, facts);
        } else if let Some((digest, name)) = line.split_once("  ") {
            let facts = files.get_mut(name.trim_start_matches('/')).expect("a file that is listed");
            facts.insert("sha256".into(), digest.into());
        }
    }
    for mut names in inodes.into_values() {
        names.sort();
        for name in &names[1..] {
            files.get_mut(name).expect("a name").insert("link".into(), names[0].clone().into());
        }
    }
    // Writing the listing changed the root.
    files.remove("");
    files
}

fn kind_of(words: &str) -> &'static str {
    match words {
        "directory" => "dir",
        "symbolic link" => "symlink",
        "regular file" | "regular empty file" => "file",
        "fifo" => "fifo",
        other => panic!("a file of kind {other:?}"),
    }
}

/// Where two sets of facts differ, a line each; `which` says which facts of a path count.
pub fn differences(left: &Files, right: &Files, which: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    let paths: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    for path in paths {
        let (Some(a), Some(b)) = (left.get(path), right.get(path)) else {
            let side = if left.contains_key(path) { "first" } else { "second" };
            lines.push(format!("/{path}: only in the {side}"));
            continue;
        };
        for fact in ["type", "mode", "uid", "gid", "target", "sha256", "xattrs", "link", "mtime"] {
            if a.get(fact) != b.get(fact) && which(path, fact) {
                let text = |value: Option<&Value>| value.map_or("none".to_owned(), Value::to_string);
                lines.push(format!("/{path}: {fact}: {} and {}", text(a.get(fact)), text(b.get(fact))));
            }
        }
    }
    lines
}
