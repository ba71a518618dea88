package flags

import "runtime/debug"

// Version says which program is running.
type Version struct {
	Module   string // its version, or "(devel)"
	Revision string // of the source, with "+dirty" if files were changed; or "unknown"
	Go       string // version of Go that built it
}

// ThisVersion returns what the Go toolchain has written into the program.
func ThisVersion() Version {
	v := Version{Module: "unknown", Revision: "unknown", Go: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Module, v.Go = info.Main.Version, info.GoVersion
	var dirty string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	v.Revision += dirty
	return v
}

// String is the answer to "which version is this?".
func (v Version) String() string {
	return v.Module + ", revision " + v.Revision + ", built with " + v.Go
}

// Labels are its parts, for a metric.
func (v Version) Labels() map[string]string {
	return map[string]string{"version": v.Module, "revision": v.Revision, "go_version": v.Go}
}
