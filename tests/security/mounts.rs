//! Mounts: what they show, where they are put, and what is left of them.

use std::process::Command;

use super::*;

/// A step that finds the file outside by any path it has under a mount, and fails if it does.
const LOOK: &str = "! grep -rs canary-5b1d2f /m/canary /m@/canary /m/../canary /m/b/../canary 2>/dev/null && touch /m/evil || true";

/// Sources of bind and cache mounts that lead through links and dots.
#[test]
fn cve_2024_1753_cve_2024_23651_sources_of_mounts_stay_in_their_origin() {
    for who in modes("cve_2024_1753_cve_2024_23651_sources_of_mounts_stay_in_their_origin") {
        let range = Range::new(who);
        let context = range.lab.context(&[("d/f", "f")]);
        for (name, target) in
            [("link", "@"), ("file", "@/canary"), ("up", "../../../../../../..@"), ("top", "/")]
        {
            std::os::unix::fs::symlink(range.fill(target), context.join(name)).expect("link");
        }
        let stage = "FROM busybox AS s\nRUN mkdir /d && ln -s @ /link && ln -s @/canary /file && ln -s / /top \
                     && ln -s ../../../../../../..@ /up\n";
        let mut shown = 0;
        for (from, source) in [("s", "/link"), ("s", "/file"), ("s", "/up"), ("s", "/top"), ("s", "/top@")]
            .into_iter()
            .chain([
                ("s", "../../../../../..@"),
                ("s", "/d/../../..@"),
                ("", "link"),
                ("", "file"),
                ("", "up"),
            ])
            .chain([("", "li?k"), ("", "fil*"), ("", "[u]p"), ("s", "/li*")])
            .chain([("", "top"), ("", "../outside"), ("", "d/../../outside"), ("", "@"), ("", "/top@")])
        {
            for kind in ["bind", "bind,rw", "cache,id=k"] {
                if from.is_empty() && kind.starts_with("cache") {
                    continue;
                }
                let from = if from.is_empty() { String::new() } else { format!(",from={from}") };
                let text = format!(
                    "{stage}FROM busybox\nRUN --mount=type={kind}{from},source={source},target=/m {LOOK} && ls -la /m /m/\n"
                );
                fs::write(context.join("Dockerfile"), range.fill(&text)).expect("Dockerfile");
                let done = range.build(&context, &["-t", "x"]);
                range.safe(&format!("{who:?} {kind} {from} {source}"), &done, &[]);
                shown += usize::from(done.code == 0);
            }
        }
        // `/` of a stage and of the context are good sources.
        assert!(shown >= 4, "{who:?}: {shown}");
    }
}

/// A cache's directory is named by a digest of what the Dockerfile says, never by the words.
#[test]
fn cve_2024_9675_cve_2026_33747_names_are_never_paths() {
    for who in modes("cve_2024_9675_cve_2026_33747_names_are_never_paths") {
        let range = Range::new(who);
        for id in ["../../outside", "@", "/", "..", "../../../../../../../..@", "a/../../b"] {
            let text =
                format!("FROM busybox\nRUN --mount=type=cache,id={id},target=/m {LOOK} && touch /m/evil\n");
            let (done, out) = range.files(&text, &[]);
            range.safe(&format!("{who:?} cache {id}"), &done, &[&out]);
            assert_eq!(done.code, 0, "{who:?} {id}: {}", done.err);
            let text =
                format!("FROM busybox\nRUN --mount=type=secret,id={id} --mount=type=ssh,id={id} true\n");
            let (done, out) = range.files(&text, &[]);
            range.safe(&format!("{who:?} secret {id}"), &done, &[&out]);
            let (done, out) = range.files("FROM busybox\nCOPY x /x\n", &["--cache-ns", id, "-t", id]);
            range.safe(&format!("{who:?} tag {id}"), &done, &[&out]);
            assert_ne!(done.code, 0, "{who:?}: tag {id}");
            let platform = format!("--platform=linux/{id}");
            let (done, out) = range.files("FROM scratch\nCOPY x /x\n", &[&platform]);
            range.safe(&format!("{who:?} platform {id}"), &done, &[&out]);
        }
        let made: Vec<_> = ["evil", "home/evil", "out/evil"]
            .iter()
            .filter(|name| range.lab.path().join(name).exists())
            .collect();
        assert!(made.is_empty(), "{made:?}");
    }
}

/// Options that no mount of a build has, with their names in the message.
#[test]
fn cve_2024_9407_unknown_mount_options_are_refused() {
    if modes("cve_2024_9407_unknown_mount_options_are_refused").is_empty() {
        return;
    }
    let range = Range::new(Who::Caller);
    for option in [
        "bind-propagation=shared",
        "bind-propagation=rshared,lowerdir=/",
        "propagation=shared",
        "z",
        "relabel=shared",
        "suid",
        "dev",
        "exec",
        "U",
        "upperdir=@",
        "source=/,uid=0,notmnt",
    ] {
        for kind in ["bind", "cache", "tmpfs", "secret"] {
            let (done, _) =
                range.files(&format!("FROM busybox\nRUN --mount=type={kind},target=/m,{option} true\n"), &[]);
            let name = option.split([',', '=']).next().unwrap_or_default();
            assert!(done.code != 0 && done.err.contains(name), "{kind} {option}: {}", done.err);
        }
    }
    for target in ["/", "..", "/m/../..", "/proc/../"] {
        let (done, _) =
            range.files(&format!("FROM busybox\nRUN --mount=type=tmpfs,target={target} true\n"), &[]);
        assert_ne!(done.code, 0, "{target}: {}", done.err);
    }
}

/// Mount points in the image are not cleaned up by path: a step may have put a link above one.
#[test]
fn cve_2024_23652_what_a_step_puts_above_a_mount_is_not_followed() {
    for who in modes("cve_2024_23652_what_a_step_puts_above_a_mount_is_not_followed") {
        let range = Range::new(who);
        for text in [
            "RUN --mount=type=tmpfs,target=/a/b/c mv /a /z; rm -rf /a; ln -s @ /a; ls -d /a",
            "RUN --mount=type=secret,id=s,target=/a/b/f mv /a /z; rm -rf /a; ln -s @ /a; ls -d /a",
            "RUN --mount=type=bind,source=x,target=/a/b/f mv /a /z; rm -rf /a; ln -s @ /a; ls -d /a",
            "RUN --mount=type=cache,target=/a --mount=type=tmpfs,target=/a/b/c mv /a/b /a/z; ln -s @ /a/b",
            "RUN --mount=type=tmpfs,target=/etc/b/c mv /etc /z; ln -s @ /etc; ls -d /etc",
        ] {
            let secret = range.lab.context(&[("s", "s")]).join("s");
            let secret = format!("--secret=id=s,src={}", secret.display());
            let (done, out) = range.files(&format!("FROM busybox\n{text}\nRUN true\n"), &[&secret]);
            range.safe(&format!("{who:?} {text}"), &done, &[&out]);
        }
        // The second step's points lie behind what the first left in the shared cache.
        let text = "FROM busybox\nRUN --mount=type=cache,target=/c ln -s @ /c/b && ln -s @/canary /c/f\n\
                    RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/c/b/new touch /c/b/new/evil\n";
        let (done, out) = range.files(text, &[]);
        range.safe(&format!("{who:?} link in a cache"), &done, &[&out]);
    }
}

/// Targets of mounts, the ones that every step gets among them, behind links of the image.
#[test]
fn cve_2021_30465_cve_2024_9341_cve_2024_45310_targets_lie_in_the_image() {
    for who in modes("cve_2021_30465_cve_2024_9341_cve_2024_45310_targets_lie_in_the_image") {
        let range = Range::new(who);
        let link = range.outside();
        let canary = format!("{link}/canary");
        let resolv = format!("{link}/resolv.conf");
        for (case, rows) in [
            ("etc", vec![("etc", b'2', link.as_str())]),
            ("hosts", vec![("etc/hosts", b'2', canary.as_str()), ("etc/hostname", b'2', canary.as_str())]),
            ("resolv", vec![("etc/resolv.conf", b'2', resolv.as_str())]),
            ("run", vec![("run", b'2', link.as_str())]),
            ("l", vec![("l", b'2', link.as_str())]),
            ("dev", vec![("dev", b'2', link.as_str())]),
            ("tmp", vec![("tmp", b'2', link.as_str())]),
        ] {
            let rows: Vec<(&str, u8, &str)> = rows.into_iter().collect();
            let flags = range.hostile(&[tar_of(&rows)], |_| {});
            let secret = range.lab.context(&[("s", "s")]).join("s");
            let secret = format!("--secret=id=s,src={}", secret.display());
            let text = "FROM hostile\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,target=/l/secret \
                        --mount=type=cache,target=/l/cache --mount=type=tmpfs,target=/run/t \
                        --mount=type=bind,source=x,target=/l/x touch /l/cache/evil; echo evil >> /etc/hosts; \
                        echo evil > /etc/resolv.conf; echo evil > /l/evil; echo evil > /tmp/evil; \
                        cat /etc/canary /etc/hosts /l/canary /run/canary /dev/canary; true\n";
            let (done, out) = range.files(text, &[&flags[0], &flags[1], &secret]);
            range.safe(&format!("{who:?} {case}"), &done, &[&out]);
            let (done, out) = range.files("FROM hostile\nRUN true\n", &[&flags[0], &flags[1]]);
            range.safe(&format!("{who:?} {case} alone"), &done, &[&out]);
        }
    }
}

/// `/proc`, `/sys` and `/dev` as links or files of the image: masked all the same, or no step at all.
#[test]
fn cve_2023_27561_cve_2023_28642_cve_2025_31133_cve_2025_52565_cve_2025_52881_kernel_files_are_covered() {
    for who in modes(
        "cve_2023_27561_cve_2023_28642_cve_2025_31133_cve_2025_52565_cve_2025_52881_kernel_files_are_covered",
    ) {
        let range = Range::new(who);
        let check = "[ -r /proc/self/status ] || exit 0; [ \"$(stat -c %t:%T /dev/null)\" = 1:3 ] \
            && [ -z \"$(cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | head -c 1)\" ] \
            && [ -z \"$(ls /sys/firmware; ls /proc/scsi 2>/dev/null)\" ] \
            && ! touch /sys/evil 2>/dev/null && ! sh -c 'echo evil > /proc/sys/kernel/core_pattern' 2>/dev/null \
            && ! sh -c 'echo x > /proc/sysrq-trigger' 2>/dev/null && echo ok > /checked";
        let mut good = 0;
        for (case, rows) in [
            ("none", vec![]),
            ("proc", vec![("fake/", b'5', ""), ("proc", b'2', "/fake")]),
            ("proc outside", vec![("proc", b'2', "@")]),
            ("proc in dev", vec![("proc", b'2', "/dev/shm")]),
            ("proc in sys", vec![("proc", b'2', "/sys")]),
            ("proc file", vec![("proc", b'0', "x")]),
            ("sys", vec![("sys", b'2', "/proc")]),
            ("dev", vec![("dev", b'2', "/proc/self")]),
            ("console", vec![("dev", b'5', ""), ("dev/console", b'2', "@/canary"), ("dev/pts", b'2', "@")]),
            ("null", vec![("dev", b'5', ""), ("dev/null", b'2', "/proc/sysrq-trigger")]),
            (
                "masked",
                vec![("proc", b'5', ""), ("proc/kcore", b'2', "/bin"), ("sys/firmware", b'2', "/bin")],
            ),
        ] {
            let rows: Vec<(&str, u8, String)> =
                rows.iter().map(|(name, kind, text)| (*name, *kind, range.fill(text))).collect();
            let rows: Vec<(&str, u8, &str)> =
                rows.iter().map(|(name, kind, text)| (*name, *kind, text.as_str())).collect();
            let flags = range.hostile(&[tar_of(&rows)], |_| {});
            let (done, out) = range
                .files(&format!("FROM hostile\nRUN {check}\n"), &[&flags[0], &flags[1], "--network=none"]);
            range.safe(&format!("{who:?} {case}"), &done, &[&out]);
            // Refused before it ran, or covered: what ran and found something open ends with 1.
            let ran = done.err.contains("exit code");
            assert!(!ran, "{who:?} {case}: something is open\n{}", done.err);
            good += usize::from(done.code == 0 && out.join("checked").exists());
        }
        assert!(good >= 2, "{who:?}: {good}");
        for target in
            ["/proc", "/proc/self/attr", "/proc/sys", "/sys", "/proc/kcore", "/dev/null", "/proc/1/fd"]
        {
            for kind in ["tmpfs", "cache", "bind,from=busybox,source=/etc"] {
                let (done, out) = range.files(
                    &format!("FROM busybox\nRUN --mount=type={kind},target={target} {check}\n"),
                    &["--network=none"],
                );
                range.safe(&format!("{who:?} {kind} on {target}"), &done, &[&out]);
                println!(
                    "{who:?} {kind} on {target}: {} {}",
                    done.code,
                    done.err.lines().last().unwrap_or_default()
                );
            }
        }
    }
}

/// A step with this machine's network and without its root has a copy of the machine's `/sys`, in which the
/// file systems of security modules, tracing and debugging may be mounted.
#[test]
fn what_is_mounted_in_sys_is_not_shown() {
    const MOUNTS: &str = "mount -t tmpfs tmpfs /sys/kernel/mm && echo canary > /sys/kernel/mm/canary && \
        mkdir /sys/kernel/mm/inner && mount -t tmpfs tmpfs /sys/kernel/mm/inner && \
        mount --bind /sys/kernel/mm/canary /sys/kernel/uevent_seqnum && \
        mount -t tmpfs tmpfs /mnt && mount -t tmpfs -o mode=700 tmpfs /sys/bus && mkdir /sys/bus/older && \
        mount --move /mnt /sys/bus/older || exit 99; exec \"$@\"";
    const LOOK: &str = "FROM busybox\nRUN [ -d /sys/class/net ] && [ -d /sys/fs/cgroup ] && \
        ! grep canary /sys/kernel/mm/canary /sys/kernel/uevent_seqnum && ! [ -e /sys/kernel/mm/inner ] && \
        ! touch /sys/kernel/mm/new\n\
        RUN if [ -d /sys/bus/pci ] || [ -d /sys/bus/cpu ]; then exit 0; fi; \
        for d in bus fs/cgroup kernel/mm; do [ \"$(ls -A /sys/$d && echo none)\" = none ] || exit 1; done\n";
    let test = "what_is_mounted_in_sys_is_not_shown";
    if !is_root() || !has("unshare") {
        return skip(test, "only root can mount something in /sys");
    }
    let mut ways: Vec<(Who, Vec<&str>)> = modes(test).into_iter().map(|who| (who, vec![])).collect();
    if ways.iter().any(|(who, _)| *who == Who::Rootless) {
        let installed = ["--runtime=crun", "--runtime=runc"].into_iter().filter(|flag| has(&flag[10..]));
        ways.extend(installed.map(|runtime| (Who::Rootless, vec!["--isolation=oci", runtime])));
    }
    for (who, flags) in ways {
        let lab = Lab::as_user(who);
        let context = lab.context(&[("Dockerfile", LOOK)]);
        let mut rbuild = lab.rbuild();
        rbuild.args(["build", "--network=host"]).args(lab.bases()).args(&flags).arg(&context);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", MOUNTS, "sh"]);
        command.arg(rbuild.get_program()).args(rbuild.get_args()).env_clear();
        command.envs(rbuild.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let done = support::done(command.current_dir(lab.path()).output().expect("unshare"));
        if done.code == 99 {
            return skip(test, "nothing can be mounted in /sys");
        }
        assert_eq!(done.code, 0, "{who:?} {flags:?} {}", done.err);
    }
}
