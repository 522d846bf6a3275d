//! What this host can run, and the choice of a back end.
//!
//! [`probe`] tells three kinds of host apart by measuring, never by name: whole KVM; user-mode KVM,
//! a software hypervisor behind `/dev/kvm` that runs ring 3 natively but emulates each ring-0
//! instruction; and no KVM. It says what it found in words, and what to do about it. [`best`] makes
//! the choice for a need and gives the reason.

mod measure;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use serde::Serialize;

use self::measure::Measured;
use crate::{
    error::{Error, ErrorKind, Result},
    hv::{Caps, Hypervisor},
    kvm::Kvm,
    soft::Soft,
};

/// The kinds of `/dev/kvm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KvmKind {
    /// None that can be used.
    None,
    /// Guest user code runs natively, guest kernels are emulated by the host's kernel and many of
    /// their instructions are missing.
    UserMode,
    /// All guests run natively.
    Whole,
}

/// What was found out about this host.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Which kind of KVM there is.
    pub kvm: KvmKind,
    /// Each thing that was looked at.
    pub findings: Vec<Finding>,
    /// What a guest's loop costs, where one could be run.
    pub ring_cost: Option<RingCost>,
    /// Nothing came in the way of measuring.
    #[serde(skip)]
    complete: bool,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The thing.
    pub what: &'static str,
    /// Whether it is as it should be.
    pub good: bool,
    /// What was found, in words.
    pub found: String,
    /// What could be done about it.
    pub advice: Option<String>,
}

/// The time a guest takes for one iteration of a loop of two instructions, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RingCost {
    /// In ring 0.
    pub ring0: f64,
    /// In ring 3.
    pub ring3: f64,
}

impl RingCost {
    /// How many times dearer ring 0 is.
    pub fn ratio(&self) -> f64 {
        self.ring0 / self.ring3
    }
}

/// A ring 0 dearer than this is emulated. Natively the ratio is 1; the emulation measured is beyond
/// 1,000.
const EMULATED: f64 = 20.0;

/// What a guest needs to run well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A kernel: ring 0, interrupts, paging of its own.
    Kernel,
    /// Programs or functions without a kernel: ring 3.
    Program,
}

/// A back end, and why it is the best one for the need.
#[derive(Clone)]
pub struct Choice {
    hypervisor: Arc<dyn Hypervisor>,
    reason: String,
}

impl Choice {
    /// The back end's name, such as `kvm`.
    pub fn name(&self) -> &'static str {
        self.hypervisor.name()
    }

    /// Why it was chosen, and what to expect of it.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The back end.
    pub fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        &self.hypervisor
    }
}

impl From<Choice> for Arc<dyn Hypervisor> {
    fn from(choice: Choice) -> Self {
        choice.hypervisor
    }
}

/// What this host can run: measured at the first call, which takes some 10 to 30 ms, and remembered
/// for the life of the process.
///
/// Only a complete measurement is remembered: after a failure that may pass, such as too many open
/// files, the next call tries again.
pub fn probe() -> Report {
    static REPORT: OnceLock<Report> = OnceLock::new();
    if let Some(report) = REPORT.get() {
        return report.clone();
    }
    let report = probe_again();
    if report.complete {
        return REPORT.get_or_init(|| report).clone();
    }
    report
}

/// Measures anew. What [`probe`] remembers, and [`best`] goes by, stays.
pub fn probe_again() -> Report {
    let kvm = match Kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => return no_kvm(&error),
    };
    match measure::measure(&kvm) {
        Ok(measured) => judge(kvm.caps(), &measured),
        Err(error) => no_kvm(&error.context("/dev/kvm opens, but no guest can be run")),
    }
}

/// The back end of this name, `kvm` or `soft`.
///
/// # Errors
/// `BadConfig` if there is none of that name; `NoHypervisor` or `Unsupported` if it is not to be had
/// here.
pub fn named(name: &str) -> Result<Choice> {
    let hypervisor: Arc<dyn Hypervisor> = match name {
        "kvm" => Kvm::open()?.into(),
        "soft" => Soft::new()?.into(),
        _ => return Err(Error::bad_config(format!("no back end '{name}': there is kvm and soft"))),
    };
    Ok(Choice { hypervisor, reason: "as asked for".to_owned() })
}

/// The best back end of this host for `need`: KVM where it runs that natively, else the software CPU.
/// Where the library was built without it, KVM that emulates kernels is better than nothing.
///
/// # Errors
/// `NoHypervisor` if there is none, with the reason and what to do about it.
pub fn best(need: Need) -> Result<Choice> {
    let report = probe();
    let reason = match (report.kvm, need) {
        (KvmKind::None, _) => return without_kvm(&report),
        (KvmKind::Whole, _) => "whole KVM: guests run at native speed".to_owned(),
        (KvmKind::UserMode, Need::Program) => {
            "user-mode KVM: ring 3 runs at native speed".to_owned()
        }
        (KvmKind::UserMode, Need::Kernel) => {
            let cost =
                report.ring_cost.map(|cost| format!(" at {:.0} times the cost", cost.ratio()));
            let why = format!("/dev/kvm emulates ring 0{}", cost.unwrap_or_default());
            match Soft::new() {
                Ok(soft) => return Ok(Choice { hypervisor: soft.into(), reason: why }),
                Err(_) => why,
            }
        }
    };
    Ok(Choice { hypervisor: Arc::new(Kvm::open()?), reason })
}

/// Why there is no KVM, and what to do about it.
fn no_hypervisor(report: &Report) -> Error {
    let finding = report.findings.first();
    let why = finding.map_or("no KVM", |finding| finding.found.as_str());
    let advice = finding.and_then(|finding| finding.advice.as_deref());
    let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
    Error::new(ErrorKind::NoHypervisor, format!("{why}{advice}"))
}

/// The software CPU. Where the library was built without it, the error speaks of KVM: that is what
/// can be changed.
fn without_kvm(report: &Report) -> Result<Choice> {
    let Ok(soft) = Soft::new() else { return Err(no_hypervisor(report)) };
    let why = report.findings.first().map_or("no KVM", |finding| finding.found.as_str());
    Ok(Choice { hypervisor: soft.into(), reason: format!("no KVM: {why}") })
}

/// What the software CPU is good for, in words.
fn software_cpu() -> Finding {
    match Soft::new() {
        Ok(_) => {
            let words = "runs programs and kernels on any host, if slower than a processor";
            found("software CPU", true, words.to_owned(), None)
        }
        Err(error) => found("software CPU", false, error.to_string(), Some("build with it")),
    }
}

fn no_kvm(error: &Error) -> Report {
    let message = error.to_string();
    let (found, advice) = match message.split_once("; ") {
        Some((found, advice)) => (found.to_owned(), Some(advice.to_owned())),
        None => (message, None),
    };
    let finding = Finding { what: "/dev/kvm", good: false, found, advice };
    let findings = vec![finding, software_cpu()];
    Report { kvm: KvmKind::None, findings, ring_cost: None, complete: false }
}

/// Turns measurements into words.
fn judge(caps: &Caps, measured: &Measured) -> Report {
    let cost = RingCost { ring0: measured.ring0, ring3: measured.ring3 };
    let native = cost.ratio() <= EMULATED;
    let whole = native && measured.ring0_sse && measured.syscall_enters_ring0;
    let findings = vec![
        found("/dev/kvm", true, format!("opens; up to {} vCPUs a VM", caps.max_vcpus), None),
        found("ring 0", native, ring0_words(&cost, native), Some(OTHER_HOST)),
        found(
            "SSE in ring 0",
            measured.ring0_sse,
            words(measured.ring0_sse, "runs", "an SSE instruction in ring 0 cannot be run"),
            Some("compile guest kernels with -mgeneral-regs-only, or see 'ring 0'"),
        ),
        found(
            "SYSCALL",
            measured.syscall_enters_ring0,
            words(
                measured.syscall_enters_ring0,
                "enters ring 0",
                "jumps to LSTAR but stays in ring 3",
            ),
            Some("guests of this library's sandbox know another way; for kernels see 'ring 0'"),
        ),
        found(
            "interrupt controllers",
            caps.irq,
            words(caps.irq, "in the kernel", "KVM_CAP_IRQCHIP is missing"),
            Some("use machines without interrupts, or another kernel"),
        ),
        found(
            "doorbells",
            caps.doorbells,
            words(caps.doorbells, "ioeventfd", "KVM_CAP_IOEVENTFD is missing"),
            None,
        ),
        software_cpu(),
    ];
    let kvm = if whole { KvmKind::Whole } else { KvmKind::UserMode };
    Report { kvm, findings, ring_cost: Some(cost), complete: true }
}

const OTHER_HOST: &str = "fine for programs in ring 3; guest kernels want a host with VT-x or \
                          AMD-V, on clouds one with nested virtualization";

fn ring0_words(cost: &RingCost, native: bool) -> String {
    let RingCost { ring0, ring3 } = cost;
    let what = if native { "native" } else { "emulated by the host's kernel" };
    format!("{what}: a loop takes {ring0:.1} ns, in ring 3 {ring3:.1} ns ({:.1}x)", cost.ratio())
}

fn words(good: bool, yes: &str, no: &str) -> String {
    if good { yes } else { no }.to_owned()
}

/// A finding; the advice is for when it is not good.
fn found(what: &'static str, good: bool, found: String, advice: Option<&str>) -> Finding {
    let advice = advice.filter(|_| !good).map(str::to_owned);
    Finding { what, good, found, advice }
}

/// A table: what was looked at, what was found, and below what is not as it should be ('!') what
/// could be done about it.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "This host has {}.\n", self.kvm)?;
        for finding in &self.findings {
            let mark = if finding.good { ' ' } else { '!' };
            writeln!(f, "{mark} {:22} {}", finding.what, finding.found)?;
            if let Some(advice) = &finding.advice {
                writeln!(f, "  {:22} -> {advice}", "")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for KvmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no KVM",
            Self::UserMode => "user-mode KVM",
            Self::Whole => "whole KVM",
        })
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Choice({}: {})", self.name(), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: Measured =
        Measured { ring0: 0.31, ring3: 0.3, ring0_sse: true, syscall_enters_ring0: true };

    #[test]
    fn each_shortcoming_alone_makes_a_kvm_user_mode() {
        let caps = Caps { irq: true, doorbells: true, ..Caps::default() };
        assert_eq!(judge(&caps, &NATIVE).kvm, KvmKind::Whole);
        assert!(judge(&caps, &NATIVE).findings.iter().all(|f| f.good && f.advice.is_none()));
        let short = [
            Measured { ring0: 30.0, ..NATIVE },
            Measured { ring0_sse: false, ..NATIVE },
            Measured { syscall_enters_ring0: false, ..NATIVE },
        ];
        for measured in short {
            let report = judge(&caps, &measured);
            assert_eq!(report.kvm, KvmKind::UserMode, "{measured:?}");
            assert_eq!(report.findings.iter().filter(|f| !f.good && f.advice.is_some()).count(), 1);
        }
    }

    #[test]
    fn without_kvm_the_report_says_why_and_what_to_do() {
        let error = Kvm::open_at(std::path::Path::new("/dev/no-such-kvm")).unwrap_err();
        let report = no_kvm(&error);
        assert_eq!(report.kvm, KvmKind::None);
        let finding = report.findings.first().unwrap();
        assert!(finding.found.contains("No such file"), "{finding:?}");
        assert!(finding.advice.as_ref().unwrap().contains("modprobe"), "{finding:?}");
    }

    #[test]
    fn the_choice_and_the_report_agree() {
        let programs = best(Need::Program).map(|choice| choice.name());
        let kernels = best(Need::Kernel).map(|choice| choice.name());
        match (probe().kvm, Soft::new().is_ok()) {
            (KvmKind::Whole, _) | (KvmKind::UserMode, false) => {
                assert_eq!((programs.unwrap(), kernels.unwrap()), ("kvm", "kvm"));
            }
            (KvmKind::UserMode, true) => {
                assert_eq!((programs.unwrap(), kernels.unwrap()), ("kvm", "soft"));
            }
            (KvmKind::None, true) => {
                assert_eq!((programs.unwrap(), kernels.unwrap()), ("soft", "soft"));
            }
            (KvmKind::None, false) => {
                assert_eq!(programs.unwrap_err().kind(), ErrorKind::NoHypervisor);
                assert_eq!(kernels.unwrap_err().kind(), ErrorKind::NoHypervisor);
            }
        }
    }

    #[test]
    fn back_ends_are_known_by_their_names() {
        assert_eq!(named("xen").unwrap_err().kind(), ErrorKind::BadConfig);
        if let Ok(soft) = named("soft") {
            assert_eq!((soft.name(), soft.reason()), ("soft", "as asked for"));
        }
    }
}
