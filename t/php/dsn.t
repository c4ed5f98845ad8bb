#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# dsn.t: the DSN in session.save_path and the rules for session ids. The tests
# themselves are PHP (dsn.php prints TAP); this file only finds PHP and starts
# it without any php.ini, so that a pass also shows that no extension is
# needed, and with every notice shown.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib';
use PhpTest;

my $php = php_binary() // do { say '1..0 # SKIP no php'; exit 0 };
exec $php, '-n', '-d', 'error_reporting=-1', '-d', 'display_errors=1', '-d', 'html_errors=0',
    top_srcdir() . '/t/php/dsn.php'
    or die "$php: $!\n";
