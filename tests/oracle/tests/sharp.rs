//! The oracle itself: it finds what is different, and it survives what instructions do.
use iced_x86::Code;
use vmm_oracle::{
    arena::{CODE, DATA, PAGE},
    case::{Case, Registers, Window},
    compare::differences,
    generate::{Generator, decode},
    native::Native,
    operands::Form,
    ours::{Ours, Way},
    report::{from_file, to_file},
};

fn case(code: &[u8], general: &[(usize, u64)]) -> Case {
    let mut before = Registers { rip: CODE + 0x100, ..Registers::default() };
    general.iter().for_each(|(n, value)| before.general[*n] = *value);
    let window = Window { offset: PAGE as usize, bytes: vec![0x11; 64] };
    Case { before, code: code.to_vec(), windows: vec![window], jumps: false }
}

#[test]
fn the_processor_s_side_sees_results_memory_and_faults() {
    let mut native = Native::start().unwrap();
    let at = DATA + PAGE;
    let outcomes = native
        .execute(&[
            // add rax, rcx; add [rdi], al; mov eax, [rdi] of nothing, and of no address; ud2; div ecx
            case(&[0x48, 0x01, 0xc8], &[(0, u64::MAX), (1, 1)]),
            case(&[0x00, 0x07], &[(0, 0x22), (7, at)]),
            case(&[0x8b, 0x07], &[(7, DATA + 5)]),
            case(&[0x8b, 0x07], &[(7, 1 << 63)]),
            case(&[0x0f, 0x0b], &[]),
            case(&[0xf7, 0xf1], &[]),
        ])
        .unwrap();
    assert_eq!(outcomes[0].after.general[0], 0);
    assert_eq!(outcomes[0].after.rflags & 0x8d5, 0x55);
    assert_eq!(outcomes[1].windows[0].bytes[..2], [0x33, 0x11]);
    let fault = |n: usize| outcomes[n].fault.map(|f| (f.vector, f.code, f.address));
    assert_eq!(fault(1), None);
    assert_eq!(fault(2), Some((14, 4, DATA + 5)));
    assert_eq!(fault(3), Some((13, 0, 0)));
    assert_eq!(fault(4), Some((6, 0, 0)));
    assert_eq!(fault(5), Some((0, 0, 0)));
    // One case's memory is not the next one's.
    assert_eq!(outcomes[2].windows[0].bytes, vec![0x11; 64]);
}

#[test]
fn a_wrong_result_is_found_wherever_it_is() {
    let (mut ours, mut native) = (Ours::new(), Native::start().unwrap());
    let case = case(&[0x00, 0x07], &[(0, 0x22), (7, DATA + PAGE)]);
    let i = decode(&case.code, case.before.rip);
    let right = ours.execute(&case, Way::Step).unwrap();
    let host = native.execute(std::slice::from_ref(&case)).unwrap().remove(0);
    assert!(differences(&i, &case, &right, &host).is_empty());
    let found = |change: &dyn Fn(&mut vmm_oracle::case::Outcome)| {
        let mut wrong = right.clone();
        change(&mut wrong);
        differences(&i, &case, &wrong, &host).len()
    };
    assert_eq!(found(&|o| o.after.general[9] ^= 1), 1);
    assert_eq!(found(&|o| o.after.rip += 1), 1);
    assert_eq!(found(&|o| o.after.rflags ^= 1 << 4), 1);
    assert_eq!(found(&|o| o.after.fx[160 + 255] ^= 0x80), 1);
    assert_eq!(found(&|o| o.after.fx[24] ^= 1), 1);
    assert_eq!(found(&|o| o.windows[0].bytes[63] ^= 1), 1);
}

#[test]
fn a_case_that_is_kept_comes_back() {
    let mut generator = Generator::new(5);
    for code in [Code::Add_rm64_r64, Code::Paddb_xmm_xmmm128, Code::Movsb_m8_m8, Code::Jmp_rm64] {
        let case = generator.case(code, Form::Memory).unwrap();
        let again = from_file(&to_file(&case)).unwrap();
        assert_eq!(to_file(&again), to_file(&case));
        assert_eq!(again.windows, case.windows);
        assert_eq!(again.before.fx, case.before.fx);
    }
}

#[test]
fn all_of_a_seed_is_the_same_twice() {
    let cases = |seed| {
        let mut generator = Generator::new(seed);
        let made = (0..50).map(|_| generator.case(Code::Adc_r32_rm32, Form::Memory).unwrap());
        made.map(|case| to_file(&case)).collect::<Vec<_>>()
    };
    assert_eq!(cases(7), cases(7));
    assert_ne!(cases(7), cases(8));
}
