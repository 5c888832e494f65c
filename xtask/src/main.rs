//! Developer tools. `cargo run -p xtask -- schemas <definitions.json> <out.gz>` makes the committed schema data file,
//! `cargo run -p xtask -- protobuf <k8s-pb source> <schemas.gz> <out.txt>` the table of protobuf field numbers.

mod protobuf;
mod schemas;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["schemas", input, output] => schemas::run(input.as_ref(), output.as_ref()),
        ["protobuf", source, schemas, output] => protobuf::run(source.as_ref(), schemas.as_ref(), output.as_ref()),
        _ => anyhow::bail!(
            "usage: xtask schemas <definitions.json> <out.json.gz> | protobuf <k8s-pb source> <schemas.json.gz> <out.txt>"
        ),
    }
}
