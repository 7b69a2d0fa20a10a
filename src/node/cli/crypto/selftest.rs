//! `hufu crypto selftest`: what a node tests before it is ready, on every back end.

use hufu_crypto::{selftest, software_provider_on};
use serde_json::{Value, json};

use super::super::CliError;
use crate::kernels;
use crate::output::Output;

pub(super) fn run(output: Output) -> Result<(), CliError> {
    let backends =
        if kernels::is_forced() { vec![kernels::backend()] } else { kernels::available() };
    let (mut results, mut lines, mut is_good) = (Vec::<Value>::new(), Vec::new(), true);
    for backend in backends {
        let name = backend.name();
        match selftest(&software_provider_on(backend), backend) {
            Ok(passed) => {
                lines.push(format!("ok      {name:9} {}", passed.join(", ")));
                results.push(json!({ "backend": name, "passed": passed, "error": null }));
            }
            Err(error) => {
                is_good = false;
                lines.push(format!("FAILED  {name:9} {error}"));
                results.push(json!({ "backend": name, "error": error.to_string() }));
            }
        }
    }
    let value =
        json!({ "ok": is_good, "node_uses": kernels::backend().name(), "backends": results });
    output
        .result(&value, format!("{}\na node uses {}", lines.join("\n"), kernels::backend().name()));
    if is_good { Ok(()) } else { Err(CliError::Reported) }
}
