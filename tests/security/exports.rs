//! Results written where links lie already.

use super::*;
use std::os::unix::fs::symlink;

/// Links at a destination are replaced, never followed; links of the image stay links.
#[test]
fn buildkit_project_boundary_exports_stay_in_their_destination() {
    for who in modes("buildkit_project_boundary_exports_stay_in_their_destination") {
        let range = Range::new(who);
        let text = "FROM busybox\nRUN mkdir -p /d/b/c /e && echo new > /d/canary && echo new > /file && echo new > /d/b/f \
            && ln -s @ /l && ln -s @/canary /m && echo new > /e/x && chmod 700 /d && chmod 4711 /file && ln /file /hard\n";
        for round in 0..2 {
            let dest = range.lab.out(&format!("dest-{round}"));
            fs::create_dir(&dest).expect("dest");
            for (name, target) in
                [("d", "@"), ("file", "@/canary"), ("bin", "@/b"), ("hard", "@/b/f"), ("l", "@/b")]
            {
                symlink(range.fill(target), dest.join(name)).expect("link");
            }
            if let Some((_, uid)) = user_of(who) {
                std::os::unix::fs::chown(&dest, Some(uid), Some(uid)).expect("chown");
            }
            for again in 0..2 {
                let context = range.lab.context(&[("Dockerfile", &range.fill(text))]);
                let done = range.build(&context, &["-o", &dest.display().to_string()]);
                range.safe(&format!("{who:?} {round} {again}"), &done, &[]);
                assert_eq!(done.code, 0, "{who:?} {}", done.err);
                for name in ["d", "file", "bin", "hard"] {
                    assert!(
                        !fs::symlink_metadata(dest.join(name)).expect(name).is_symlink(),
                        "{who:?} {name}"
                    );
                }
                assert_eq!(fs::read_link(dest.join("l")).expect("l"), range.outside);
                assert_eq!(fs::read_to_string(dest.join("d/canary")).expect("new"), "new\n");
                // Between the two exports somebody changes what lies there.
                fs::remove_dir_all(dest.join("d")).expect("remove");
                symlink(&range.outside, dest.join("d")).expect("link");
            }
        }
    }
}

/// Names in archives of results: none that another tool would unpack elsewhere.
#[test]
fn cve_2019_14271_class_archives_of_results_hold_plain_names() {
    for who in modes("cve_2019_14271_class_archives_of_results_hold_plain_names") {
        let range = Range::new(who);
        let rows = [("l", b'2', "@"), ("a\nb", b'0', "x"), ("-rf", b'0', "x"), ("a/b", b'0', "deep")];
        let filled: Vec<(&str, u8, String)> =
            rows.iter().map(|(name, kind, text)| (*name, *kind, range.fill(text))).collect();
        let rows: Vec<(&str, u8, &str)> = filled.iter().map(|row| (row.0, row.1, row.2.as_str())).collect();
        let flags = range.hostile(&[tar_of(&rows)], |_| {});
        for kind in ["tar", "oci", "docker"] {
            let dest = range.lab.out(&format!("result.{kind}"));
            let output = format!("type={kind},dest={}", dest.display());
            let context = range.lab.context(&[("Dockerfile", "FROM hostile\nCOPY --from=hostile / /l/\n")]);
            let done = range.build(&context, &[&flags[0], &flags[1], "-o", &output]);
            range.safe(&format!("{who:?} {kind}"), &done, &[]);
            assert_eq!(done.code, 0, "{who:?} {kind}: {}", done.err);
            let mut archive = tar::Archive::new(fs::File::open(&dest).expect("archive"));
            let mut links = Vec::new();
            let mut count = 0;
            for entry in archive.entries().expect("entries") {
                let entry = entry.expect("entry");
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                let plain = name.trim_end_matches('/');
                assert!(
                    !name.starts_with('/') && !plain.split('/').any(|part| part == ".."),
                    "{kind}: {name}"
                );
                let behind = links.iter().any(|link: &String| plain.starts_with(&format!("{link}/")));
                assert!(!behind, "{kind}: {name} lies behind a link");
                if entry.header().entry_type().is_symlink() {
                    links.push(plain.to_owned());
                }
                count += 1;
            }
            assert!(count > 3, "{kind}: {count}");
        }
    }
}

/// What `--iidfile` and `--metadata-file` may name, and what they leave when a build fails.
#[test]
fn results_are_removed_first_checked_before_the_build_and_reach_pipes_and_descriptors() {
    let test = "results_are_removed_first_checked_before_the_build_and_reach_pipes_and_descriptors";
    for who in modes(test) {
        let lab = Lab::as_user(who);
        let good = lab.context(&[("Dockerfile", "FROM busybox\nRUN echo executed\n")]);
        let bad = lab.context(&[("Dockerfile", "FROM busybox\nRUN echo executed; exit 3\n")]);
        for flag in ["--iidfile", "--metadata-file"] {
            let result = lab.out(flag.trim_start_matches('-'));
            let path = result.display().to_string();
            assert_eq!(lab.build(&good, &[flag, &path]).code, 0);
            assert!(fs::read_to_string(&result).is_ok_and(|text| text.contains("sha256:")), "{flag}");
            assert_eq!(lab.build(&bad, &[flag, &path]).code, 1);
            assert!(!result.exists(), "{flag}: a failed build left the result of another");
            let missing = lab.out("missing/result").display().to_string();
            for (place, why) in
                [(missing.as_str(), "does not exist"), ("/", "directory"), ("/dev/fd/77", "cannot write")]
            {
                let done = lab.build(&bad, &[flag, place]);
                assert!(done.code == 6 && done.err.contains(why), "{flag} {place}: {}", done.err);
                assert!(!done.err.contains("executed"), "{flag} {place}: known only after the build");
            }
            assert_eq!(lab.build(&good, &[flag, ""]).code, 0, "an unset variable");
        }
        if who == Who::SingleId {
            let closed = lab.path().join("closed/result").display().to_string();
            fs::create_dir(lab.path().join("closed")).expect("closed");
            let done = lab.build(&bad, &["--iidfile", &closed]);
            assert!(done.code == 6 && !done.err.contains("executed"), "{}", done.err);
        }
        let mut rbuild = lab.rbuild();
        rbuild.arg("build").arg("--progress=plain").args(lab.bases());
        let shell = |script: &str| {
            let mut command = std::process::Command::new("bash");
            command
                .args(["-c", script])
                .arg(rbuild.get_program())
                .args(rbuild.get_args())
                .arg(&good)
                .env_clear();
            command.envs(rbuild.get_envs().filter_map(|(key, value)| Some((key, value?))));
            support::done(command.current_dir(lab.out("")).output().expect("bash"))
        };
        for script in [
            "exec 3>&1; \"$0\" \"$@\" --iidfile >(cat >&3) >/dev/null",
            "\"$0\" \"$@\" --iidfile /dev/fd/5 5>&1 >/dev/null",
            "\"$0\" \"$@\" --iidfile /dev/stdout",
            "\"$0\" \"$@\" --iidfile /dev/stdout >kept-$$; cat kept-$$",
            "mkfifo -m 666 pipe-$$; \"$0\" \"$@\" --iidfile pipe-$$ & timeout 60 cat pipe-$$; wait",
        ] {
            let done = shell(script);
            let id = done.out.strip_prefix("sha256:").unwrap_or_default();
            assert!(id.len() == 64, "{who:?} {script}: {:?} {}", done.out, done.err);
        }
    }
}
