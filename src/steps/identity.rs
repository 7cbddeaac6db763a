//! Users and groups by the image's own `/etc/passwd` and `/etc/group`.
//!
//! Follows what BuildKit does at RUN time (its `GetExecUser`) and for `--chown`, with one
//! deliberate difference: an unknown name in `--chown` is an error, where BuildKit silently
//! takes root.

/// Largest passwd or group file that is read (CVE-2026-47262: unbounded parsing).
pub const MAX_FILE: u64 = 10 << 20;
/// Largest number of a user or group that counts as one where an image's files are looked into.
const MAX_ID: u32 = i32::MAX.cast_unsigned();
/// What RUN gets where the image has no entry for the user.
const DEFAULT_HOME: &str = "/";

/// The content of the two files; empty where the image has none.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: Vec<u8>,
    /// `/etc/group`.
    pub group: Vec<u8>,
}

/// Who a `RUN` runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunUser {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups, the primary one among them.
    pub groups: Vec<u32>,
    /// Home directory for `HOME`.
    pub home: String,
}

/// A user or group that cannot be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not in passwd.
    #[error("unable to find user {0}: no matching entries in /etc/passwd of the image")]
    NoUser(String),
    /// Not in group.
    #[error("unable to find group {0}: no matching entries in /etc/group of the image")]
    NoGroup(String),
    /// A number that no runtime and no private user namespace takes; refused in every mode alike.
    #[error("user and group IDs must be in range 0-{MAX_ID}: {0}")]
    OutOfRange(String),
}

/// A `--chown` value that names nobody: it needs no files of an image.
pub fn numeric_owner(text: &str) -> Option<(u32, u32)> {
    let (user, group) = split(text);
    id(user)?;
    group.is_none_or(|group| id(group).is_some()).then(|| Accounts::default().owner(text).ok())?
}

struct PasswdLine {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct GroupLine {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Accounts {
    /// Resolves a `USER` value: `user`, `uid`, `user:group`...; empty means root.
    pub fn run_user(&self, text: &str) -> Result<RunUser, IdentityError> {
        let (user, group) = split(text);
        let numeric = user.parse::<u32>().ok();
        let group_number = group.and_then(|group| group.parse::<u32>().ok());
        let large = |id: Option<u32>| id.is_some_and(|id| id > MAX_ID);
        if large(numeric) || large(group_number) {
            return Err(IdentityError::OutOfRange(text.to_owned()));
        }
        let entry = self.passwd_lines().find(|line| line.name == user || numeric == Some(line.uid));
        let (uid, mut gid, name, home) = match (entry, numeric) {
            (Some(line), _) => (line.uid, line.gid, Some(line.name), line.home),
            (None, Some(uid)) => (uid, 0, None, DEFAULT_HOME.to_owned()),
            (None, None) if user.is_empty() => (0, 0, Some("root".into()), "/root".into()),
            (None, None) => return Err(IdentityError::NoUser(user.to_owned())),
        };
        let mut groups = Vec::new();
        match group {
            Some(group) => gid = group_number.map_or_else(|| self.group_id(group), Ok)?,
            None => {
                let belongs =
                    |line: &GroupLine| name.as_ref().is_some_and(|name| line.members.contains(name));
                groups.extend(self.group_lines().filter(belongs).map(|line| line.gid));
            }
        }
        // CVE-2023-25173: without the primary group in the list, permissions that deny it do not bind.
        if !groups.contains(&gid) {
            groups.insert(0, gid);
        }
        Ok(RunUser { uid, gid, groups, home })
    }

    /// Resolves a `--chown` value. A bare number means that number for both.
    pub fn owner(&self, text: &str) -> Result<(u32, u32), IdentityError> {
        let (user, group) = split(text);
        let (uid, default_gid) = match id(user) {
            Some(uid) => (uid, uid),
            None if user.is_empty() => (0, 0),
            None => {
                let line = self.passwd_lines().find(|line| line.name == user);
                let line = line.ok_or_else(|| IdentityError::NoUser(user.to_owned()))?;
                (line.uid, line.gid)
            }
        };
        let gid = match group {
            Some(group) => self.group_id(group)?,
            // `user:`, the group left out, is root's in BuildKit.
            None if text.contains(':') => 0,
            None => default_gid,
        };
        Ok((uid, gid))
    }

    /// The owner of a directory that `WORKDIR` makes. A name that the image does not know counts for
    /// nothing: BuildKit takes root for such a user, and leaves the group as it is without one.
    pub fn workdir_owner(&self, text: &str) -> (u32, u32) {
        let (user, group) = split(text);
        let (uid, gid) = self.owner(user).unwrap_or((0, 0));
        match group {
            Some(group) => (uid, self.group_id(group).unwrap_or(gid)),
            None if text.contains(':') => (uid, 0),
            None => (uid, gid),
        }
    }

    fn group_id(&self, group: &str) -> Result<u32, IdentityError> {
        if let Some(gid) = id(group) {
            return Ok(gid);
        }
        let line = self.group_lines().find(|line| line.name == group);
        line.map(|line| line.gid).ok_or_else(|| IdentityError::NoGroup(group.to_owned()))
    }

    fn passwd_lines(&self) -> impl Iterator<Item = PasswdLine> {
        lines(&self.passwd).filter_map(|fields| {
            Some(PasswdLine {
                name: fields.first()?.clone(),
                uid: fields.get(2)?.parse().ok()?,
                gid: fields.get(3)?.parse().ok()?,
                home: fields.get(5).filter(|home| !home.is_empty()).map_or(DEFAULT_HOME.into(), Clone::clone),
            })
        })
    }

    fn group_lines(&self) -> impl Iterator<Item = GroupLine> {
        lines(&self.group).filter_map(|fields| {
            let members = fields.get(3).map_or(Vec::new(), |list| {
                list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
            });
            Some(GroupLine { name: fields.first()?.clone(), gid: fields.get(2)?.parse().ok()?, members })
        })
    }
}

/// A number that is one for BuildKit's files: it reads them as 32 bits with a sign.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    }
}

fn lines(content: &[u8]) -> impl Iterator<Item = Vec<String>> {
    content
        .split(|c| *c == b'\n')
        .map(|line| String::from_utf8_lossy(line).trim().to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n\nbroken\nnohome:x:7:7::\n"
                .to_vec(),
            group: b"root:x:0:\napp:x:1001:\nextra:x:2000:app,other\nwheel:x:10:other\n".to_vec(),
        }
    }

    #[test]
    fn run_users_resolve_as_the_reference_does() {
        let user = |text: &str| accounts().run_user(text).map(|u| (u.uid, u.gid, u.groups, u.home));
        let root = || (0, 0, vec![0], "/root".to_owned());
        assert_eq!(user(""), Ok(root()));
        assert_eq!(user("root"), Ok(root()));
        assert_eq!(user("app"), Ok((1000, 1001, vec![1001, 2000], "/home/app".into())));
        assert_eq!(user("1000"), Ok((1000, 1001, vec![1001, 2000], "/home/app".into())));
        assert_eq!(user("app:wheel"), Ok((1000, 10, vec![10], "/home/app".into())));
        assert_eq!(user("1234"), Ok((1234, 0, vec![0], "/".into())));
        assert_eq!(user("1234:5"), Ok((1234, 5, vec![5], "/".into())));
        assert_eq!(user("nohome"), Ok((7, 7, vec![7], "/".into())));
        assert_eq!(user("ghost"), Err(IdentityError::NoUser("ghost".into())));
        assert_eq!(user("app:ghosts"), Err(IdentityError::NoGroup("ghosts".into())));
    }

    #[test]
    fn chown_takes_a_bare_number_for_user_and_group_and_refuses_unknown_names() {
        let owner = |text: &str| accounts().owner(text);
        assert_eq!(owner("1"), Ok((1, 1)));
        assert_eq!(owner("1:2"), Ok((1, 2)));
        assert_eq!(owner("app"), Ok((1000, 1001)));
        assert_eq!(owner("app:"), Ok((1000, 0)));
        assert_eq!(owner("app:extra"), Ok((1000, 2000)));
        assert_eq!(owner("5:extra"), Ok((5, 2000)));
        assert_eq!(owner("ghost"), Err(IdentityError::NoUser("ghost".into())));
    }

    #[test]
    fn names_that_the_image_does_not_know_count_for_nothing_to_workdir() {
        let owner = |text: &str| accounts().workdir_owner(text);
        assert_eq!(owner("10000:bar"), (10000, 10000));
        assert_eq!(owner("app:bar"), (1000, 1001));
        assert_eq!(owner("ghost:extra"), (0, 2000));
        assert_eq!(owner("ghost"), (0, 0));
        assert_eq!(owner(":9"), (0, 9));
        assert_eq!(Accounts::default().workdir_owner("10000:bar"), (10000, 10000));
    }

    #[test]
    fn numeric_ids_need_no_files() {
        assert_eq!(Accounts::default().owner("33:44"), Ok((33, 44)));
        assert!(Accounts::default().run_user("33:44").is_ok());
        assert!(Accounts::default().run_user("www").is_err());
    }
}
