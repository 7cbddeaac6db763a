//! Any bytes as a Dockerfile: no panic, spans of errors inside the text, errors that can be shown, and
//! triggers that read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild::dockerfile::{InstructionKind, parse, parse_trigger, render_error};

fuzz_target!(|text: &[u8]| {
    match parse("Dockerfile", text) {
        Err(errors) => {
            for error in errors.iter() {
                assert!(error.source.text().get(error.span.start..error.span.end).is_some());
                let help = error.help.as_deref();
                assert!(!render_error(&error.source, error.span, &error.message, help, false).is_empty());
            }
        }
        Ok(file) => {
            for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
                let span = instruction.span;
                assert!(file.source.text().get(span.start..span.end).is_some());
                if let InstructionKind::Onbuild(onbuild) = &instruction.kind {
                    let again = parse_trigger("trigger", &onbuild.trigger, file.directives.escape);
                    assert!(again.is_ok(), "{:?}", onbuild.trigger);
                }
            }
        }
    }
});
