//! What this host can run, for people and for programs.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use vmm_core::host::{self, Need, Report};

const HELP: &str = "\
Says what virtual machines this host can run, by measuring (some 30 ms).

Usage: cargo run --example probe [-- --json | --help]

  --json   the report as JSON, for programs
  --help   this text

There are three kinds of host:
  whole KVM      guests run at native speed
  user-mode KVM  programs (ring 3) run at native speed, but each instruction of a kernel (ring 0)
                 is emulated, about a thousand times slower, and many are missing
  no KVM         /dev/kvm is missing, may not be opened, or runs nothing

A line that starts with '!' is a shortcoming; below it stands what can be done about it. Programs
get the same answer from vmm_core::host::probe(), and the choice from vmm_core::host::best().

Examples:
  cargo run --example probe
  cargo run -q --example probe -- --json | jq -r .kvm        # whole, user-mode or none
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let text = match arguments[..] {
        [] => table(&host::probe()),
        ["--json"] => json(&host::probe()),
        ["--help" | "-h"] => Ok(HELP.to_owned()),
        _ => Err(format!("unknown arguments: {}; try --help", arguments.join(" ")).into()),
    };
    match text.and_then(|text| Ok(io::stdout().write_all(text.as_bytes())?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn json(report: &Report) -> Result<String, Box<dyn Error>> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

fn table(report: &Report) -> Result<String, Box<dyn Error>> {
    let mut out = report.to_string();
    writeln!(out)?;
    for (what, need) in [("programs", Need::Program), ("kernels", Need::Kernel)] {
        match host::best(need) {
            Ok(choice) => {
                writeln!(out, "  {what:22} run on {} ({})", choice.name(), choice.reason())?
            }
            Err(_) => writeln!(out, "! {what:22} cannot run here")?,
        }
    }
    Ok(out)
}
