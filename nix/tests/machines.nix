# Machines that use every option of `nix.buildMachines`.
{
  nix.distributedBuilds = true;
  nix.buildMachines = [
    {
      hostName = "plain";
      system = "x86_64-linux";
    }
    {
      hostName = "big.example.org";
      protocol = "ssh-ng";
      systems = [
        "x86_64-linux"
        "i686-linux"
      ];
      maxJobs = 16;
      speedFactor = 3;
      supportedFeatures = [
        "kvm"
        "big-parallel"
      ];
      mandatoryFeatures = [ "benchmark" ];
      sshUser = "builder";
      sshKey = "/root/.ssh/id_builder";
      # "ssh-ed25519 " and the key, in base64 once more
      publicHostKey = "c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSU9YeEJPQlJ2UTdrZ3ZHbFpmRG9lQktrcUpoZHZhL3ltM1l1NXNyYVJudDQgcm9vdEBiaWcK";
    }
    {
      hostName = "both";
      system = "aarch64-linux";
      systems = [ "x86_64-linux" ];
      mandatoryFeatures = [ "nixos-test" ];
      maxJobs = 0;
    }
    {
      hostName = "localhost";
      protocol = null;
      systems = [ "builtin" ];
    }
  ];
}
