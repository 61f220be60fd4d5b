# Derivations that make-resolved.sh builds, to see what Nix makes of placeholders once the paths of
# floating outputs are known.
let
  make =
    attributes:
    derivation (
      {
        system = builtins.currentSystem;
        builder = "/bin/sh";
        args = [ "-c" "for o in $outputs; do eval echo $name '$built' \\> \\$$o; done" ];
        outputs = [ "out" ];
      }
      // attributes
    );
  floating =
    attributes:
    make (
      {
        __contentAddressed = true;
        outputHashMode = "recursive";
        outputHashAlgo = "sha256";
      }
      // attributes
    );
in
rec {
  plain = make { name = "plain"; };
  floatingOne = floating { name = "floating"; };
  floatingTwo = floating {
    name = "floating-two";
    outputs = [ "out" "dev" ];
    inherit plain;
  };
  floatingOnFloating = floating {
    name = "floating-on-floating";
    twice = "${floatingOne}${floatingOne}:${floatingTwo.dev}/include /${floatingTwo}";
    inherit plain;
  };
  deferred = make {
    name = "deferred";
    outputs = [ "out" "dev" ];
    floating = floatingOne;
    inherit floatingTwo;
  };
  onDeferred = make {
    name = "on-deferred";
    dev = deferred.dev;
    inherit floatingOnFloating;
  };
}
