//! The tiers of ARCHITECTURE.md, checked against the sources: a module imports from its own tier and
//! from those below, never from above, and no modules import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Module to the modules it imports, each with one file that does.
type Imports = BTreeMap<String, BTreeMap<String, String>>;

/// The first cell of the table of tiers carries over to the rows below it.
fn tiers() -> Result<BTreeMap<String, u32>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md"))?;
    let (mut tiers, mut tier) = (BTreeMap::new(), 0);
    for row in text.lines().skip_while(|line| !line.starts_with("| tier |")).skip(2) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, number, modules, ..] = cells[..] else { break };
        if !number.is_empty() {
            tier = number.parse()?;
        }
        for module in modules.split('`').skip(1).step_by(2) {
            assert!(tiers.insert(module.to_owned(), tier).is_none(), "{module} is listed twice");
        }
    }
    Ok(tiers)
}

/// A source without its comments and its module of unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first segments of all paths below `crate::`, also of grouped ones.
fn imported(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let heads: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => heads_of_group(group),
            None => vec![rest],
        };
        found.extend(heads.into_iter().map(|head| {
            head.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
        }));
    }
    found
}

/// What stands at the first level of a `{...}` whose opening brace is behind us.
fn heads_of_group(group: &str) -> Vec<&str> {
    let (mut heads, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (at, c) in group.char_indices() {
        match (c, depth) {
            ('{', _) => depth += 1,
            ('}', 0) => {
                heads.push(&group[start..at]);
                return heads;
            }
            ('}', _) => depth -= 1,
            (',', 0) => {
                heads.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    heads
}

fn walk(dir: &Path, module: Option<&str>, imports: &mut Imports) -> Result {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        let module = module.unwrap_or(&name);
        if name == "tests" || name.ends_with("_tests") || ["lib", "main"].contains(&module) {
            continue;
        }
        if path.is_dir() {
            walk(&path, Some(module), imports)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let of_module = imports.entry(module.to_owned()).or_default();
            for target in imported(&code(&fs::read_to_string(&path)?)) {
                if target != module {
                    of_module.entry(target).or_insert_with(|| path.display().to_string());
                }
            }
        }
    }
    Ok(())
}

fn imports() -> Result<Imports> {
    let mut imports = Imports::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), None, &mut imports)?;
    Ok(imports)
}

/// Everything that `from` imports, directly or through others.
fn reached<'a>(imports: &'a Imports, from: &'a str) -> BTreeSet<&'a str> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        for target in imports.get(module).into_iter().flat_map(BTreeMap::keys) {
            if seen.insert(target.as_str()) {
                open.push(target);
            }
        }
    }
    seen
}

#[test]
fn every_module_has_a_tier() -> Result {
    let (tiers, imports) = (tiers()?, imports()?);
    let (listed, present): (BTreeSet<_>, BTreeSet<_>) = (tiers.keys().collect(), imports.keys().collect());
    assert_eq!(listed, present, "modules in ARCHITECTURE.md and in src/");
    Ok(())
}

#[test]
fn no_module_imports_from_a_tier_above() -> Result {
    let tiers = tiers()?;
    let mut wrong = Vec::new();
    for (module, targets) in imports()? {
        for (target, file) in targets {
            if tiers.get(&target).is_some_and(|above| *above > tiers[&module]) {
                wrong.push(format!("{module} imports {target} in {file}"));
            }
        }
    }
    assert!(wrong.is_empty(), "imports from a tier above:\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn no_modules_import_each_other_in_a_circle() -> Result {
    let imports = imports()?;
    let circular: Vec<&String> =
        imports.keys().filter(|module| reached(&imports, module).contains(module.as_str())).collect();
    assert!(circular.is_empty(), "modules in an import cycle: {circular:?}");
    Ok(())
}

#[test]
fn imports_are_found_in_every_form() {
    let code = code(
        "use crate::{image::Config, layer::{self, pack}, store};\n\
         // crate::comment::is_left_out\n\
         fn f() { crate::digest::Digest::of(b\"\") }\n\
         #[cfg(test)]\nmod tests {\n    use crate::only_tests;\n}\n",
    );
    assert_eq!(imported(&code), ["image", "layer", "store", "digest"]);
}
