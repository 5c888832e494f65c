//! Developer tools. `cargo run -p xtask -- schemas <definitions.json> <out.gz>` makes the committed schema data file,
//! `cargo run -p xtask -- protobuf <Go modules> <out.txt>` the table of protobuf fields.

mod protobuf;
mod schemas;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["schemas", input, output] => schemas::run(input.as_ref(), output.as_ref()),
        ["protobuf", modules, output] => protobuf::run(modules.as_ref(), output.as_ref()),
        _ => anyhow::bail!("usage: xtask schemas <definitions.json> <out.json.gz> | protobuf <Go modules> <out.txt>"),
    }
}
