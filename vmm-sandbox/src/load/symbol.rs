//! The global symbols of a program: where its functions and variables are.

use std::{collections::BTreeMap, sync::OnceLock};

use object::{
    LittleEndian,
    elf::{
        FileHeader64, SHN_XINDEX, SHT_DYNSYM, SHT_SYMTAB, STB_LOCAL, STT_FUNC, STT_NOTYPE,
        STT_OBJECT, SymbolBind, SymbolSection, SymbolType,
    },
    read::{
        ReadRef,
        elf::{FileHeader, SectionHeader},
    },
};

use super::source::Source;

/// The symbols as the file has them. Most programs are never asked for one, so they are put in order
/// when the first is.
#[derive(Debug)]
pub(super) struct Symbols {
    tables: Vec<Table>,
    /// What is added to the file's addresses.
    base: u64,
    index: OnceLock<BTreeMap<String, u64>>,
}

/// A section of symbols, and the section that has their names.
#[derive(Debug)]
struct Table {
    symbols: Vec<u8>,
    names: Vec<u8>,
}

/// The bytes of an Elf64_Sym: name, info, other, section, value, size.
const SYMBOL: usize = 24;

impl Symbols {
    /// Copies them out of a program, whose header this is; `image` is `source` too.
    pub(super) fn read<'a, R: ReadRef<'a>>(
        header: &FileHeader64<LittleEndian>,
        image: R,
        source: &Source,
        base: u64,
    ) -> Result<Self, String> {
        let sections = header.sections(LittleEndian, image).map_err(|error| error.to_string())?;
        let mut tables = Vec::new();
        for kind in [SHT_SYMTAB, SHT_DYNSYM] {
            let mut all = sections.iter();
            let Some(section) = all.find(|section| section.sh_type(LittleEndian) == kind) else {
                continue;
            };
            let names = sections.section(section.link(LittleEndian));
            let content = |section: &object::elf::SectionHeader64<LittleEndian>| {
                let (at, len) = section.file_range(LittleEndian).unwrap_or_default();
                source.read(at, len).map_err(|error| error.to_string())
            };
            let names = content(names.map_err(|error| error.to_string())?)?;
            tables.push(Table { symbols: content(section)?, names });
        }
        Ok(Self { tables, base, index: OnceLock::new() })
    }

    /// These.
    pub(super) fn listed(all: BTreeMap<String, u64>) -> Self {
        Self { tables: Vec::new(), base: 0, index: all.into() }
    }

    /// All functions and variables, and where they are.
    pub(super) fn all(&self) -> &BTreeMap<String, u64> {
        self.index.get_or_init(|| self.index())
    }

    fn index(&self) -> BTreeMap<String, u64> {
        let mut index = BTreeMap::new();
        for table in &self.tables {
            for symbol in table.symbols.as_chunks::<SYMBOL>().0 {
                let Some((name, address)) = global(symbol, &table.names) else { continue };
                // Those that C and Rust programs have are UTF-8.
                if let Ok(name) = std::str::from_utf8(name) {
                    index.entry(name.to_owned()).or_insert(address.wrapping_add(self.base));
                }
            }
        }
        index
    }
}

/// Name and address, if it is a global function or variable that is defined.
fn global<'a>(symbol: &[u8; SYMBOL], names: &'a [u8]) -> Option<(&'a [u8], u64)> {
    let [n0, n1, n2, n3, info, _, s0, s1, value @ ..] = symbol;
    let section = SymbolSection(u16::from_le_bytes([*s0, *s1]));
    let is_defined = !section.is_special() || section == SHN_XINDEX;
    let (binding, kind) = (SymbolBind(info >> 4), SymbolType(info & 0xf));
    if !is_defined || binding == STB_LOCAL || ![STT_FUNC, STT_NOTYPE, STT_OBJECT].contains(&kind) {
        return None;
    }
    let name = names.get(u32::from_le_bytes([*n0, *n1, *n2, *n3]) as usize..)?;
    let name = name.get(..name.iter().position(|byte| *byte == 0)?)?;
    Some((name, u64::from_le_bytes(*value.first_chunk()?)))
}
