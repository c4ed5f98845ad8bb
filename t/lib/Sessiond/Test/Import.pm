# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Import: runs sessiond-import and reads what it says; makes
# directories of sessions for it.
package Sessiond::Test::Import;
use v5.36;

use Carp       qw(croak);
use File::Path qw(make_path);
use File::Temp ();
use POSIX      qw(:sys_wait_h);
use Time::HiRes ();
use Sessiond::Test::Httpd ();
use Sessiond::Test::Net   qw(now nap);

use Exporter qw(import);
our @EXPORT_OK = qw(start_import finish_import run_import new_directory put_session tool);

my $LONG = 120;

sub tool () {
    my $path = $ENV{SESSIOND_IMPORT} // ($ENV{abs_top_builddir} // Sessiond::Test::Httpd->top_srcdir) . '/tools/sessiond-import';
    -x $path or die "no $path: build it, or name it in SESSIOND_IMPORT\n";
    return $path;
}

# A directory that goes with the test.
sub new_directory () {
    return File::Temp->newdir('sessiond-import-XXXXXX', TMPDIR => 1);
}

# A file "$dir/$name" that was changed $age seconds ago, directories included.
sub put_session ($dir, $name, $data, $age = 0) {
    my $path = "$dir/$name";
    make_path($path =~ s{/[^/]*$}{}r);
    open my $fh, '>:raw', $path or die "$path: $!\n";
    print {$fh} $data;
    close $fh or die "$path: $!\n";
    my $at = Time::HiRes::time() - $age;
    Time::HiRes::utime($at, $at, $path) or die "$path: $!\n" if $age;
    return $path;
}

# Starts it; returns a handle for finish_import().
sub start_import (@arguments) {
    my $out = File::Temp->new;
    my $err = File::Temp->new;
    my $program = tool();
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        open STDIN,  '<', '/dev/null';
        open STDOUT, '>&', $out;
        open STDERR, '>&', $err;
        $ENV{LC_ALL} = 'C';
        exec { $program } 'sessiond-import', @arguments or POSIX::_exit(127);
    }
    return { pid => $pid, out => $out, err => $err };
}

sub _read ($file) {
    open my $fh, '<', $file->filename or die "$!\n";
    local $/;
    return readline($fh) // '';
}

# What it has said so far.
sub so_far ($run) { return (_read($run->{out}), _read($run->{err})) }

# Waits for its end. Returns { status, out, err, sum => { 'imported' => n, ... } };
# status is -1 when it had to be killed, 1000 and the number if a signal did it.
sub finish_import ($run, $seconds = $LONG) {
    my $until = now() + $seconds;
    my $status;
    until (defined $status) {
        if (waitpid($run->{pid}, WNOHANG) == $run->{pid}) { $status = $? & 127 ? 1000 + ($? & 127) : $? >> 8 }
        elsif (now() > $until) { kill KILL => $run->{pid}; waitpid $run->{pid}, 0; $status = -1 }
        else                   { nap(0.01) }
    }
    my ($out, $err) = so_far($run);
    my %sum = map { /^(\w[\w :]*?): (\d+)/ ? ($1 => $2) : () } split /\n/, $out;
    return { status => $status, out => $out, err => $err, sum => \%sum };
}

sub run_import (@arguments) { return finish_import(start_import(@arguments)) }

1;
