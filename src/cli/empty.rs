//! Options with an empty value, such as `-o "$OUT"` where the variable is not set.
//!
//! Docker and buildx read such a value as if the option were not there. Where they refuse it (`-t ""`,
//! `--build-arg ""`, an empty context), so does rbuild, in the place that reads the option.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};

use super::args::{BuildArgs, Cli, Command, InputArgs, LaterArgs, LimitArgs};

/// Removes the options whose empty value means the default.
pub(super) fn drop_empty(cli: &mut Cli) {
    unset(&mut cli.registries, |path| path.as_os_str().is_empty());
    unset(&mut cli.root, |path| path.as_os_str().is_empty());
    match &mut cli.command {
        Command::Build(args) => build(args),
        Command::Check(args) => build(&mut args.build),
        Command::VerifyReproducible(args) => build(&mut args.build),
        Command::Plan(args) => input(&mut args.input),
        Command::Lock(args) => input(&mut args.input),
        Command::Vendor(args) => input(&mut args.input),
        Command::Sbom(args) => unset(&mut args.output, |path| path.as_os_str().is_empty()),
        // Docker takes an empty name for the standard streams.
        Command::Save(args) if args.output.is_empty() => "-".clone_into(&mut args.output),
        Command::Load(args) if args.input.is_empty() => "-".clone_into(&mut args.input),
        _ => {}
    }
}

/// Parses a path that may be empty, which clap refuses otherwise.
pub(super) fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn build(args: &mut BuildArgs) {
    input(&mut args.input);
    limits(&mut args.limits);
    later(&mut args.later);
    unset(&mut args.attest.provenance, String::is_empty);
    unset(&mut args.attest.sbom, String::is_empty);
    for values in [
        &mut args.outputs,
        &mut args.annotations,
        &mut args.no_cache_filter,
        &mut args.cache_from,
        &mut args.cache_to,
        &mut args.secrets,
        &mut args.ssh,
        &mut args.allow,
        &mut args.add_hosts,
    ] {
        values.retain(|value| !value.is_empty());
    }
    for path in [&mut args.iidfile, &mut args.metadata_file] {
        unset(path, |path| path.as_os_str().is_empty());
    }
    for value in [&mut args.progress, &mut args.isolation, &mut args.runtime, &mut args.call.call] {
        unset(value, String::is_empty);
    }
}

fn input(args: &mut InputArgs) {
    args.build_contexts.retain(|value| !value.is_empty());
    args.insecure_registries.retain(|value| !value.is_empty());
    unset(&mut args.file, |file| file.is_empty());
    unset(&mut args.target, String::is_empty);
}

fn limits(args: &mut LimitArgs) {
    for value in [&mut args.cpuset_cpus, &mut args.cpuset_mems, &mut args.cgroup_parent] {
        unset(value, String::is_empty);
    }
}

fn later(args: &mut LaterArgs) {
    unset(&mut args.builder, String::is_empty);
}

fn unset<T>(option: &mut Option<T>, is_empty: impl FnOnce(&T) -> bool) {
    if option.as_ref().is_some_and(is_empty) {
        *option = None;
    }
}
