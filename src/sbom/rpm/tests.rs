//! Databases made here by hand, byte by byte, in the three forms.

use proptest::prelude::*;

use super::super::text::Found;
use super::installed;

const TAGS: &[(u32, &str)] =
    &[(1002, "2.el9"), (1014, "MIT and BSD"), (1022, "x86_64"), (1044, "src-1.src.rpm")];

/// A header with a name, a version, an epoch and the rest of [`TAGS`]; `padding` bytes make it long.
fn header(name: &str, version: &str, padding: usize) -> Vec<u8> {
    let (mut index, mut store, mut count) = (Vec::new(), Vec::new(), 0u32);
    let mut add = |tag: u32, kind: u32, value: &[u8]| {
        index.extend([tag, kind, store.len() as u32, 1].iter().flat_map(|number| number.to_be_bytes()));
        store.extend_from_slice(value);
        count += 1;
    };
    add(1003, 4, &7u32.to_be_bytes());
    for (tag, value) in [(1000, name), (1001, version)].iter().chain(TAGS) {
        add(*tag, 6, format!("{value}\0").as_bytes());
    }
    add(1004, 9, "a summary\0".as_bytes());
    add(1117, 7, &vec![b'x'; padding]);
    let sizes = [count, store.len() as u32];
    [sizes.iter().flat_map(|number| number.to_be_bytes()).collect(), index, store].concat()
}

fn headers() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> =
        (0..40).map(|at| header(&format!("p{at:02}"), &at.to_string(), 500 * at)).collect();
    all.push(header("gpg-pubkey", "0", 9));
    all
}

fn ndb(headers: &[Vec<u8>]) -> Vec<u8> {
    let mut slots = Vec::new();
    let mut blobs: Vec<u8> = Vec::new();
    for (at, header) in headers.iter().enumerate() {
        let package = at as u32 + 1;
        let block = (4096 + blobs.len()) as u32 / 16;
        slots.extend(
            [b"Slot".to_vec(), package.to_le_bytes().into(), block.to_le_bytes().into(), vec![1, 0, 0, 0]]
                .concat(),
        );
        blobs.extend(b"BlbS");
        blobs.extend([package, 0, header.len() as u32].iter().flat_map(|number| number.to_le_bytes()));
        blobs.extend(header);
        blobs.resize(blobs.len().next_multiple_of(16), 0);
    }
    let mut file = b"RpmP".to_vec();
    file.extend([0u32, 1, 1, 0, 0, 0, 0].iter().flat_map(|number| number.to_le_bytes()));
    file.extend(slots);
    while file.len() < 4096 {
        file.extend(b"Slot\0\0\0\0\0\0\0\0\0\0\0\0");
    }
    file.extend(blobs);
    file
}

/// A hash table with pages of 1024 bytes, in the byte order of another machine if `is_big`.
fn bdb(headers: &[Vec<u8>], is_big: bool) -> Vec<u8> {
    const SIZE: usize = 1024;
    let n32 =
        |number: usize| if is_big { (number as u32).to_be_bytes() } else { (number as u32).to_le_bytes() };
    let n16 =
        |number: usize| if is_big { (number as u16).to_be_bytes() } else { (number as u16).to_le_bytes() };
    let page = |number: usize, next: usize, entries: usize, kind: u8| {
        let mut page = vec![0; SIZE];
        page[8..12].copy_from_slice(&n32(number));
        page[16..20].copy_from_slice(&n32(next));
        page[20..22].copy_from_slice(&n16(entries));
        page[25] = kind;
        page
    };
    let mut pages = vec![page(0, 0, 0, 8)];
    for (at, header) in headers.iter().enumerate() {
        let first = pages.len();
        let mut table = page(first, 0, 4, 13);
        // Key and value of the number of packages, and of a package.
        let offsets = [SIZE - 8, SIZE - 16, SIZE - 24, SIZE - 40];
        for (entry, offset) in offsets.iter().enumerate() {
            table[26 + 2 * entry..28 + 2 * entry].copy_from_slice(&n16(*offset));
        }
        for inline in [SIZE - 8, SIZE - 16, SIZE - 24] {
            table[inline] = 1;
            table[inline + 1..inline + 5].copy_from_slice(&n32(at));
        }
        table[SIZE - 40] = 3;
        table[SIZE - 36..SIZE - 32].copy_from_slice(&n32(first + 1));
        table[SIZE - 32..SIZE - 28].copy_from_slice(&n32(header.len()));
        pages.push(table);
        let chunks: Vec<&[u8]> = header.chunks(SIZE - 26).collect();
        for (chunk, content) in chunks.iter().enumerate() {
            let number = pages.len();
            let next = if chunk + 1 == chunks.len() { 0 } else { number + 1 };
            let mut overflow = page(number, next, 1, 7);
            overflow[26..26 + content.len()].copy_from_slice(content);
            pages.push(overflow);
        }
    }
    let last = pages.len() - 1;
    pages[0][12..16].copy_from_slice(&n32(0x0006_1561));
    pages[0][20..24].copy_from_slice(&n32(SIZE));
    pages[0][32..36].copy_from_slice(&n32(last));
    pages.concat()
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut digits = vec![(number & 0x7f) as u8];
    while number > 0x7f {
        number >>= 7;
        digits.insert(0, (number & 0x7f) as u8 | 0x80);
    }
    digits
}

/// A database of pages of 1024 bytes whose table of packages is a tree of two levels.
fn sqlite(headers: &[Vec<u8>]) -> Vec<u8> {
    const SIZE: usize = 1024;
    let record = |columns: &[(usize, &[u8])]| {
        let kinds: Vec<u8> = columns.iter().flat_map(|(kind, _)| varint(*kind)).collect();
        let mut record = varint(kinds.len() + 1);
        record.extend(kinds);
        columns.iter().for_each(|(_, bytes)| record.extend_from_slice(bytes));
        record
    };
    let text = |text: &'static str| (13 + 2 * text.len(), text.as_bytes());
    let mut pages = vec![vec![0; SIZE], vec![0; SIZE]];
    // The cell of a leaf, and the number of overflow pages behind those that are there.
    let add_leaf = |pages: &mut Vec<Vec<u8>>, row: usize, record: &[u8]| {
        let (most, least) = (SIZE - 35, (SIZE - 12) * 32 / 255 - 23);
        let surplus = least + record.len().saturating_sub(least) % (SIZE - 4);
        let here = if record.len() <= most {
            record.len()
        } else if surplus <= most {
            surplus
        } else {
            least
        };
        let mut cell = [varint(record.len()), varint(row), record[..here].to_vec()].concat();
        let number = pages.len() + 1;
        if here < record.len() {
            cell.extend((number as u32 + 1).to_be_bytes());
        }
        let mut page = vec![0; SIZE];
        let at = SIZE - cell.len();
        page[0] = 13;
        page[3..5].copy_from_slice(&1u16.to_be_bytes());
        page[8..10].copy_from_slice(&(at as u16).to_be_bytes());
        page[at..].copy_from_slice(&cell);
        pages.push(page);
        let chunks: Vec<&[u8]> = record[here..].chunks(SIZE - 4).collect();
        for (chunk, content) in chunks.iter().enumerate() {
            let next = if chunk + 1 == chunks.len() { 0 } else { pages.len() as u32 + 2 };
            let mut page = [&next.to_be_bytes()[..], content].concat();
            page.resize(SIZE, 0);
            pages.push(page);
        }
        number
    };
    let schema =
        record(&[text("table"), text("Packages"), text("Packages"), (1, &[2]), text("CREATE TABLE")]);
    let index = record(&[text("index"), text("Packages"), text("Packages"), (1, &[9]), text("CREATE INDEX")]);
    let leaves: Vec<usize> = headers
        .iter()
        .enumerate()
        .map(|(at, header)| {
            add_leaf(&mut pages, at + 1, &record(&[(0, &[]), (12 + 2 * header.len(), header)]))
        })
        .collect();
    // Page 1: the file's header and the schema; page 2: the root of the table.
    pages[0][..16].copy_from_slice(super::sqlite::MAGIC);
    pages[0][16..18].copy_from_slice(&(SIZE as u16).to_be_bytes());
    pages[0][100] = 13;
    pages[0][103..105].copy_from_slice(&2u16.to_be_bytes());
    let mut end = SIZE;
    for (at, record) in [index, schema].iter().enumerate() {
        let cell = [varint(record.len()), varint(at + 1), record.clone()].concat();
        end -= cell.len();
        pages[0][end..end + cell.len()].copy_from_slice(&cell);
        pages[0][108 + 2 * at..110 + 2 * at].copy_from_slice(&(end as u16).to_be_bytes());
    }
    let (last, others) = leaves.split_last().unwrap_or((&0, &[]));
    pages[1][0] = 5;
    pages[1][3..5].copy_from_slice(&(others.len() as u16).to_be_bytes());
    pages[1][8..12].copy_from_slice(&(*last as u32).to_be_bytes());
    for (at, leaf) in others.iter().enumerate() {
        let place = SIZE - 8 * (at + 1);
        pages[1][place..place + 4].copy_from_slice(&(*leaf as u32).to_be_bytes());
        pages[1][12 + 2 * at..14 + 2 * at].copy_from_slice(&(place as u16).to_be_bytes());
    }
    pages.concat()
}

fn all_forms() -> [(&'static str, Vec<u8>); 4] {
    let headers = headers();
    [
        ("ndb", ndb(&headers)),
        ("Berkeley DB", bdb(&headers, false)),
        ("Berkeley DB of s390x", bdb(&headers, true)),
        ("SQLite", sqlite(&headers)),
    ]
}

fn is_whole(found: &Found) -> bool {
    found.problems.is_empty() && found.packages.len() == 40
}

#[test]
fn all_packages_of_each_form_are_found_and_keys_are_none() {
    for (form, file) in all_forms() {
        let found = installed(&file);
        assert!(is_whole(&found), "{form}: {} {:?}", found.packages.len(), found.problems);
        let mut names: Vec<&str> = found.packages.iter().map(|package| package.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!((names[0], names[39]), ("p00", "p39"), "{form}");
        let package = &found.packages[7];
        assert_eq!(package.purl(), "pkg:rpm/p07@7-2.el9?arch=x86_64&epoch=7&upstream=src-1.src.rpm");
        assert_eq!(package.licenses, ["MIT and BSD"]);
    }
}

#[test]
fn what_is_cut_off_is_noted_and_the_rest_is_found() {
    for (form, file) in all_forms() {
        let found = installed(&file[..file.len() / 2]);
        assert!(!found.problems.is_empty() && found.packages.len() < 40, "{form}");
    }
    let found = installed(b"neither of them");
    assert!(
        found.packages.is_empty() && found.problems[0].contains("neither an SQLite"),
        "{:?}",
        found.problems
    );
    assert!(!installed(b"").problems.is_empty());
    let unnamed = installed(&ndb(&[header("", "1", 0)]));
    assert_eq!(unnamed.problems, ["a package has no name"]);
}

#[test]
fn circles_in_a_database_end() {
    // Each package of a Berkeley DB is as long as the file, in one page whose next one is itself.
    let mut file = bdb(&headers(), false);
    for page in file.chunks_exact_mut(1024).filter(|page| page[25] == 7) {
        let own: Vec<u8> = page[8..12].to_vec();
        page[16..20].copy_from_slice(&own);
    }
    let length = (file.len() as u32).to_le_bytes();
    for page in file.chunks_exact_mut(1024).filter(|page| page[25] == 13) {
        page[1024 - 32..1024 - 28].copy_from_slice(&length);
    }
    let found = installed(&file);
    assert!(found.packages.len() <= 1 && found.problems.len() == 20, "{:?}", found.problems);
    // The root of an SQLite tree is its own child.
    let mut file = sqlite(&headers());
    file[1024 + 8..1024 + 12].copy_from_slice(&2u32.to_be_bytes());
    assert!(
        installed(&file).problems.iter().any(|problem| problem.contains("page")),
        "{:?}",
        installed(&file).problems
    );
    // All slots of ndb refer to one package.
    let mut file = ndb(&[header("big", "1", 100_000)]);
    let slot: Vec<u8> = file[32..48].to_vec();
    file[48..4096].chunks_exact_mut(16).for_each(|other| other.copy_from_slice(&slot));
    let found = installed(&file);
    assert!(found.packages.len() <= 1 && found.problems.iter().any(|problem| problem.contains("longer")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Images come from anybody: a damaged database is read as far as it goes, and never ends the program.
    #[test]
    fn damaged_databases_are_read_without_harm(
        form in 0usize..4,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..30),
        cut in any::<prop::sample::Index>(),
    ) {
        let (_, mut file) = all_forms()[form].clone();
        for (at, byte) in changes {
            // Where the structure is: most of the rest is padding.
            let at = at.index(file.len().min(4096));
            file[at] = byte;
        }
        let found = installed(&file[..=cut.index(file.len())]);
        prop_assert!(found.packages.len() <= 41);
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..3000), form in 0usize..4) {
        let magic = all_forms()[form].1[..100].to_vec();
        installed(&[&magic[..], &bytes].concat());
        let _ = super::header::package(&bytes);
    }
}
