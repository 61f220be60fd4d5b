# A made-up graph of builds, for tests and measurements.
#
#   shape     "wide": n builds that need nothing; "chain": d builds, each needs the one before;
#             "layers": d layers of n builds, each needs k of the layer before
#   sleep     how long each build sleeps, in seconds        size      bytes of noise in each output
#   salt      any text: another salt, another set of paths  features  requiredSystemFeatures of each
#   busybox   a directory that has bin/busybox and links to it for the tools below
#
# nix-build examples/graph.nix --argstr shape layers --argstr n 8 --argstr d 6 --argstr salt "$(date)"
{ shape ? "wide"
, n ? 10
, d ? 4
, k ? 2
, sleep ? "0"
, size ? "0"
, salt ? ""
, features ? [ ]
, system ? builtins.currentSystem
, busybox ? ./bb
}:
let
  number = x: if builtins.isString x then builtins.fromJSON x else x;
  width = number n;
  depth = number d;
  fan = number k;
  upTo = builtins.genList (i: i);
  tools = builtins.path { path = busybox; name = "busybox"; };

  node = name: inputs: derivation {
    inherit name system salt inputs;
    sleep = toString sleep;
    size = toString size;
    requiredSystemFeatures = features;
    PATH = "${tools}/bin";
    builder = "${tools}/bin/sh";
    args = [ "-euc" ''
      echo "$name starts"
      sleep "$sleep"
      mkdir "$out"
      echo "$name" > "$out/name"
      for input in $inputs; do ln -s "$input" "$out/$(basename "$input")"; done
      if [ "$size" -gt 0 ]; then head -c "$size" /dev/urandom > "$out/noise"; fi
      echo "$name ends"
    '' ];
  };

  wide = map (i: node "wide-${toString i}" [ ]) (upTo width);

  chain = builtins.foldl' (before: i: [ (node "link-${toString i}" before) ]) [ ] (upTo depth);

  # Node i of a layer needs nodes i, i+1, … of the layer before, round the corner.
  wrap = i: if i < width then i else wrap (i - width);
  neighbours = layer: i:
    if layer == [ ] then [ ] else map (j: builtins.elemAt layer (wrap (i + j))) (upTo fan);
  layers = builtins.foldl'
    (before: l: map (i: node "node-${toString l}-${toString i}" (neighbours before i)) (upTo width))
    [ ]
    (upTo depth);
in
node "graph-${shape}" ({ inherit wide chain layers; }.${shape})
