# A small release, to watch it being built: sources, libraries, tools, tests, documents, and the
# release that takes them all. Forty builds that sleep a little and write a few files.
#
# The value is the derivation of the release, with three numbers beside it:
#   builds   how many builds there are
#   tenths   how long they take one after the other, in tenths of a second
#   longest  how long the longest way through takes, which no number of machines can beat
{ busybox # a directory that has bin/busybox, static, and links to it for the tools below
, system ? builtins.currentSystem
}:
let
  inherit (builtins) attrValues concatLists concatStringsSep foldl' length map;

  tools' = builtins.path { path = busybox; name = "busybox"; };
  largest = foldl' (a: b: if a < b then b else a) 0;

  # One build. It takes `tenths` tenths of a second, fewer than ten.
  step = { name, tenths, inputs ? [ ], features ? [ ], script }:
    derivation {
      inherit name system script;
      inputs = map (input: input.out) inputs;
      requiredSystemFeatures = features;
      PATH = "${tools'}/bin";
      builder = "${tools'}/bin/sh";
      args = [ "-euc" ''
        echo "$name: ${toString (length inputs)} inputs"
        sleep 0.${toString tenths}
        mkdir "$out"
        eval "$script"
        echo "$name: done"
      '' ];
    } // {
      longest = tenths + largest (map (input: input.longest) inputs);
      # Every build that this one needs, itself included, by name.
      all = foldl' (known: input: known // input.all) { ${name} = tenths; } inputs;
    };

  source = part: step {
    name = "source-${part}";
    tenths = 2;
    script = ''echo "the text of ${part}" > "$out/text"'';
  };

  object = part: half: step {
    name = "object-${part}-${half}";
    tenths = 4;
    inputs = [ (source part) ];
    script = ''sed "s/the text/the ${half} half/" "$inputs/text" > "$out/object"'';
  };

  # A library is two objects and the libraries it is built on.
  library = part: needs: step {
    name = "lib-${part}";
    tenths = 3;
    inputs = [ (object part "left") (object part "right") ] ++ needs;
    script = ''
      for input in $inputs; do
        if [ -f "$input/object" ]; then cat "$input/object" >> "$out/library"; fi
      done
    '';
  };

  libraries = rec {
    core = library "core" [ ];
    json = library "json" [ ];
    net = library "net" [ core ];
    store = library "store" [ core json ];
    ui = library "ui" [ core ];
  };

  tool = name: tenths: needs: step {
    inherit name tenths;
    inputs = needs;
    script = ''
      mkdir "$out/bin"
      for input in $inputs; do cat "$input/library"; done > "$out/bin/${name}"
    '';
  };

  tools = with libraries; {
    fetch = tool "fetch" 4 [ net json ];
    keep = tool "keep" 5 [ store ];
    show = tool "show" 4 [ ui json ];
    serve = tool "serve" 6 [ net store ];
  };

  check = subject: tenths: step {
    name = "test-${subject.name}";
    inherit tenths;
    inputs = [ subject ];
    script = ''find "$inputs" -type f | wc -l | grep -q '^1$'; echo ok > "$out/result"'';
  };

  checks = map (library: check library 3) (attrValues libraries)
    ++ map (tool: check tool 5) (attrValues tools)
    ++ [ everything ];

  # Wants more room than most machines have.
  everything = step {
    name = "test-everything";
    tenths = 6;
    inputs = attrValues tools;
    features = [ "big-parallel" ];
    script = ''for input in $inputs; do ls "$input/bin"; done > "$out/log"; echo ok > "$out/result"'';
  };

  document = name: inputs: step {
    inherit name inputs;
    tenths = 3;
    script = ''for input in $inputs; do echo "about $(basename "$input")"; done > "$out/document"'';
  };

  documents = [
    (document "manual" (attrValues tools))
    (document "reference" (attrValues libraries))
    (document "licences" (map source [ "core" "json" "net" "store" "ui" ]))
  ];

  artwork = map (name: step {
    inherit name;
    tenths = 4;
    script = ''head -c 200000 /dev/zero | tr '\0' x > "$out/picture"'';
  }) [ "picture-large" "picture-small" "icon" ];

  release = step {
    name = "release-1.0";
    tenths = 2;
    inputs = concatLists [ (attrValues tools) checks documents artwork ];
    script = ''
      mkdir "$out/bin"
      for input in $inputs; do
        name=$(basename "$input")
        echo "''${name#*-}"
        if [ -d "$input/bin" ]; then cp "$input"/bin/* "$out/bin/"; fi
        if [ -f "$input/result" ]; then grep -q '^ok$' "$input/result"; fi
      done | sort > "$out/MANIFEST"
    '';
  };
in
release // {
  builds = length (attrValues release.all);
  tenths = foldl' (a: b: a + b) 0 (attrValues release.all);
}
